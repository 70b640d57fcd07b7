"""How far each plan is from float32, at the real width and a reduced depth, same weights.

Random weights understate the errors: real activations have outliers, which 8 bits serve worse.
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
"""The transformer embeds 1000 times this: 2496, which bfloat16 has; it would make 2496 of 2500."""


def accuracy(subject: Subject, name: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield the errors of one plan, each the norm of the difference as a share of the true.

    `step_error_float32` is that of the transformer's first output, beside float32 given the same;
    `latents_error_float32` that of the edit's last latents, all of it included.

    Raises:
        NotMeasurableError: There is no such plan here.
        BootError: The card cannot hold it.
    """
    plan = find(name, subject.card)
    exact = subject.pipeline(REDUCED, torch.float32, subject.device)
    true = _watched(subject, exact, Editor(Model(exact, "random weights", "none"), TRUE_CFG_SCALE))
    rounded = copy.deepcopy(exact).to(torch.bfloat16)
    watch = _watched(subject, rounded, subject.ready(rounded, plan))
    true_output = _computed_again(exact, watch.inputs)
    found = {
        "step_error_float32": relative_error(watch.output.float(), true_output),
        "latents_error_float32": relative_error(watch.latents, true.latents),
    }
    yield "accuracy", name, found


def _watched(subject: Subject, pipeline: FluxKontextPipeline, editor: Editor) -> Watch:
    """Make the edit, from the same noise whatever the precision."""
    watch = Watch(pipeline)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, subject.size.area // 256, 64, generator=generator)
    with _beginning_with(noise, pipeline), watch.watching():
        editor.edit(subject.edit(guidance=_GUIDANCE), lambda _: None)
    return watch


@contextmanager
def _beginning_with(noise: torch.Tensor, pipeline: FluxKontextPipeline) -> Iterator[None]:
    """Within, edits begin with this noise: torch's bfloat16 noise is not its float32's, rounded."""
    prepare = pipeline.prepare_latents
    pipeline.prepare_latents = lambda *given: prepare(*given[:-1], noise)
    try:
        yield
    finally:
        del pipeline.prepare_latents


@torch.no_grad()
def _computed_again(exact: FluxKontextPipeline, inputs: dict[str, Any]) -> torch.Tensor:
    """Return the transformer's output in float32 for inputs of another precision."""
    same = {
        name: value.float()
        if isinstance(value, torch.Tensor) and value.is_floating_point()
        else value
        for name, value in inputs.items()
    }
    output: torch.Tensor = exact.transformer(**same)[0]
    return output
