"""Measure an edit with one plan on a worker's GPU thread: time, memory, recompilations, latents."""

import gc
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from diffusers import FluxKontextPipeline
from flux_sizes import FULL
from gpu_plans import find
from gpu_profile import profile_step
from gpu_subject import Subject
from gpu_watch import Watch, now, relative_error
from gpu_work import tflop_per_step
from torch._dynamo.utils import counters

from kontext.inference.editor import Editor
from kontext.inference.executor import GpuExecutor
from kontext.inference.memory import peak_bytes
from kontext.inference.plan import EXACT, Plan

T = TypeVar("T")
Row = dict[str, Any]
Finding = tuple[str, str, Row]
"""The part, the row's name and its figures."""

REPEAT = 3
"""Number of jobs after the first."""

PROFILED = "fast"
"""The plan that is profiled."""


class Job(NamedTuple):
    """The measurements of one edit."""

    seconds: float
    pixels: bytes
    watch: Watch


def speed(subject: Subject, name: str, latents: Path) -> Iterator[Finding]:
    """Measure one plan, and yield each finding as soon as it is known.

    Args:
        subject: What is measured.
        name: One of `gpu_plans.PLANS`, or `EAGER`.
        latents: Folder that keeps the last latents of each plan, for comparison.

    Raises:
        NotMeasurableError: There is no such plan here.
        BootError: The card cannot hold the plan.
    """
    plan = find(name, subject.card)
    device = "cpu" if plan and plan.streamed else subject.device
    built = subject.pipeline(FULL, torch.bfloat16, device)
    editor, executor = subject.ready(built, plan), GpuExecutor()
    _on(executor, lambda: subject.warm_up(editor))
    forget_peak()
    jobs = [
        _on(executor, lambda: _job(subject, editor, built))
        for _ in range(1 + REPEAT if plan else 1)
    ]
    yield "speed", name, _row(subject, plan, jobs)
    _keep_latents(latents, name, jobs[-1].watch.latents)
    for other, error in _errors(latents):
        yield "distance", other, {"relative_error": error}
    if plan:
        yield "speed", name, {"recompiles": _on(executor, lambda: _recompiles(subject, editor))}
    if name == PROFILED:
        yield "profile", name, profile_step(subject, editor, built)


def forget_peak() -> None:
    """Free unused memory, and measure the peak from here."""
    gc.collect()  # a compiled pipeline is in reference cycles
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _on(executor: GpuExecutor, work: Callable[[], T]) -> T:
    return executor.run_blocking(lambda _: work())


def _job(subject: Subject, editor: Editor, built: FluxKontextPipeline) -> Job:
    watch, edit = Watch(built), subject.edit()
    with watch.watching():
        began = now()
        pixels = editor.edit(edit, lambda _: None).tobytes()
        seconds = now() - began
    return Job(seconds, pixels, watch)


def _row(subject: Subject, plan: Plan | None, jobs: list[Job]) -> Row:
    first, others = jobs[0], jobs[1:] or jobs
    seconds = statistics.median(job.seconds for job in others)
    computed = first.watch.computed
    work = sum(tflop_per_step(subject.size.width, subject.size.height))
    price = subject.usd_per_second
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
    return {
        "median_seconds": seconds,
        "seconds": [job.seconds for job in jobs],
        "first_job_seconds": first.seconds if plan else None,
        "phases": others[-1].watch.phases,
        "peak_gb": peak and peak / 1e9,
        "planned_peak_gb": peak_bytes(plan or EXACT) / 1e9,
        "usd_per_image": price * seconds if price else None,
        "tflops": computed * work / seconds,
        "repeatable": len({job.pixels for job in jobs}) == 1 if plan else None,
        "steps": subject.steps,
        "steps_computed": computed,
        "products": plan.transformer.removesuffix(" weights") if plan else "bfloat16",
        "attention": "float8" if plan and plan.float8_attention else "bfloat16",
        "plan": repr(plan),
    }


def _recompiles(subject: Subject, editor: Editor) -> int:
    """Return the number of graphs that other sizes and prompts add."""
    graphs = counters["stats"]["unique_graphs"]
    for other in subject.edits_of_other_sizes():
        editor.edit(other, lambda _: None)
    return counters["stats"]["unique_graphs"] - graphs


def _keep_latents(folder: Path, name: str, latents: torch.Tensor) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    new = folder / f"{name}.new"
    torch.save(latents, new)
    new.replace(folder / f"{name}.pt")


def _errors(folder: Path) -> Iterator[tuple[str, float]]:
    """Yield the error of each plan's latents against those of `exact`, if these are known."""
    known = {path.stem: torch.load(path, weights_only=True) for path in folder.glob("*.pt")}
    if "exact" in known:
        for name, latents in sorted(known.items()):
            yield name, relative_error(latents, known["exact"])
