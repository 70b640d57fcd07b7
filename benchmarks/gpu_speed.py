"""How long an edit takes in each mode, beside eager diffusers and beside the card's own limits."""

import gc
import statistics
from typing import Any, NamedTuple

import torch
from gpu_subject import Subject, Watch, now, relative_error, seconds_each
from real_size import FULL, tflop_per_step
from torch._dynamo.utils import counters

from kontext.mode import EXACT, Plan
from kontext.step_cache import is_computed
from kontext.warm_up import warm_up

REPEAT = 3
_SIDE = {"cuda": 8192, "cpu": 256}
"""Of the square matrices whose product shows what the card can do."""


class Run(NamedTuple):
    """What one mode showed."""

    seconds: list[float]
    outside: float
    peak: int
    latents: torch.Tensor
    repeatable: bool
    recompiles: int | None


class Rates(NamedTuple):
    """Products of large random matrices, TFLOP/s."""

    bfloat16: float
    eight_bits: float | None


def speed(subject: Subject) -> list[dict[str, Any]]:
    """Time eager diffusers, then each mode that the card can hold."""
    plans = list(subject.plans())
    holds_bfloat16 = plans[0].mode == "exact"
    runs: list[tuple[str, Plan, Run]] = []
    if holds_bfloat16:
        runs.append(("eager", EXACT, _run(subject, EXACT, compiled=False)))
    for plan in plans:
        print(f"{plan.mode}: {plan}", flush=True)
        runs.append((plan.mode, plan, _run(subject, plan, compiled=True)))
    eager = runs[0][2] if holds_bfloat16 else None
    exact = next((run for name, _, run in runs if name == "exact"), None)
    return [_row(subject, name, plan, run, eager, exact) for name, plan, run in runs]


def _run(subject: Subject, plan: Plan, compiled: bool) -> Run:
    device = "cpu" if plan.streamed else subject.device
    built = subject.pipeline(FULL, torch.bfloat16, device)
    editor = subject.ready(built, plan, compiled)
    warm_up(editor)
    watch, seconds, pictures, edit = Watch(built), [], [], subject.edit()
    _forget_peak()
    for _ in range(REPEAT):
        watch = Watch(built)
        with watch.watching():
            began = now()
            pictures.append(editor.edit(edit, lambda _: None).tobytes())
            seconds.append(now() - began)
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    graphs = counters["stats"]["unique_graphs"]
    if compiled:
        for other in subject.edits_of_other_sizes():
            editor.edit(other, lambda _: None)
    found = Run(
        seconds,
        outside=seconds[-1] - watch.loop_seconds,
        peak=peak,
        latents=watch.latents,
        repeatable=len(set(pictures)) == 1,
        recompiles=counters["stats"]["unique_graphs"] - graphs if compiled else None,
    )
    del editor, built, watch
    _forget_peak()
    return found


def _row(
    subject: Subject, name: str, plan: Plan, run: Run, eager: Run | None, exact: Run | None
) -> dict[str, Any]:
    seconds = statistics.median(run.seconds)
    computed = sum(
        not plan.step_cache or is_computed(step, subject.steps) for step in range(subject.steps)
    )
    linear, attention = tflop_per_step(subject.size.width, subject.size.height)
    rates = _rates(subject, plan)
    floor = computed * (linear / (rates.eight_bits or rates.bfloat16) + attention / rates.bfloat16)
    price = subject.usd_per_second
    return {
        "mode": name,
        "seconds": seconds,
        "x_eager": statistics.median(eager.seconds) / seconds if eager else None,
        "x_floor": seconds / floor,
        "tflops": computed * (linear + attention) / seconds,
        "peak_gb": run.peak / 1e9,
        "usd_per_image": price * seconds if price else None,
        "relative_error": relative_error(run.latents, exact.latents) if exact else None,
        "outside_ms": 1000 * run.outside,
        "first_x_median": run.seconds[0] / seconds,
        "recompiles": run.recompiles,
        "repeatable": run.repeatable,
        "steps_computed": computed,
        "plan": repr(plan),
        "rates_tflops": list(rates),
    }


def _rates(subject: Subject, plan: Plan) -> Rates:
    """Measure what large products reach, in the precisions that the plan multiplies in."""
    side = _SIDE[subject.device]
    work = 2 * side**3 / 1e12
    left, right = (
        torch.randn(side, side, device=subject.device, dtype=torch.bfloat16) for _ in range(2)
    )
    bfloat16 = work / seconds_each(lambda: left @ right.T, 20)
    if plan.transformer == "float8":
        low, lower = left.to(torch.float8_e4m3fn), right.to(torch.float8_e4m3fn)
        scale = torch.ones(side, 1, device=subject.device)
        seconds = seconds_each(
            lambda: torch._scaled_mm(
                low, lower.T, scale_a=scale, scale_b=scale.T, out_dtype=torch.bfloat16
            ),
            20,
        )
        return Rates(bfloat16, work / seconds)
    if plan.transformer == "int8":
        whole, other = left.to(torch.int8), right.to(torch.int8)
        return Rates(bfloat16, work / seconds_each(lambda: torch._int_mm(whole, other.T), 20))
    return Rates(bfloat16, None)


def _forget_peak() -> None:
    gc.collect()  # a compiled pipeline holds itself
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
