"""Measure each plan's error against float32 with the same weights, at real width and reduced depth.

Random weights understate the errors, because real activations have outliers, which 8 bits represent
worse.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import FluxKontextPipeline
from flux_sizes import REDUCED
from gpu_plans import find
from gpu_subject import TRUE_CFG_SCALE, Subject
from gpu_watch import Watch, relative_error

from kontext.inference.editor import Editor
from kontext.inference.model import Model

_GUIDANCE = 2.496
"""The transformer embeds 1000 times this. bfloat16 has 2496, to which it would round 2500."""


def accuracy(subject: Subject, name: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield the errors of one plan, each the norm of the difference as a share of the true norm.

    `step_error_float32` compares the transformer's first output with float32 of the same inputs,
    `latents_error_float32` the last latents of a whole edit.

    Args:
        subject: What is measured.
        name: One of `gpu_plans.PLANS`, or `EAGER`.

    Raises:
        NotMeasurableError: There is no such plan here.
        BootError: The card cannot hold the plan.
    """
    plan = find(name, subject.card)
    exact = subject.pipeline(REDUCED, torch.float32, subject.device)
    true = _edit_watched(
        subject, exact, Editor(Model(exact, "random weights", "none"), TRUE_CFG_SCALE)
    )
    rounded = copy.deepcopy(exact).to(torch.bfloat16)
    watch = _edit_watched(subject, rounded, subject.ready(rounded, plan))
    true_output = _output_in_float32(exact, watch.inputs)
    found = {
        "step_error_float32": relative_error(watch.output.float(), true_output),
        "latents_error_float32": relative_error(watch.latents, true.latents),
    }
    yield "accuracy", name, found


def _edit_watched(subject: Subject, pipeline: FluxKontextPipeline, editor: Editor) -> Watch:
    """Run the edit, from the same noise in every precision."""
    watch = Watch(pipeline)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, subject.size.area // 256, 64, generator=generator)
    with _starting_from(noise, pipeline), watch.watching():
        editor.edit(subject.edit(guidance=_GUIDANCE), lambda _: None)
    return watch


@contextmanager
def _starting_from(noise: torch.Tensor, pipeline: FluxKontextPipeline) -> Iterator[None]:
    """Start edits from this noise within the block.

    The pipeline would draw another noise in bfloat16 than in float32, not the same one rounded.
    """
    prepare = pipeline.prepare_latents
    pipeline.prepare_latents = lambda *given: prepare(*given[:-1], noise)
    try:
        yield
    finally:
        del pipeline.prepare_latents


@torch.no_grad()
def _output_in_float32(exact: FluxKontextPipeline, inputs: dict[str, Any]) -> torch.Tensor:
    """Return the float32 transformer's output for inputs of another precision."""
    same = {
        name: value.float()
        if isinstance(value, torch.Tensor) and value.is_floating_point()
        else value
        for name, value in inputs.items()
    }
    output: torch.Tensor = exact.transformer(**same)[0]
    return output
