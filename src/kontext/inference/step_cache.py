"""Predicts some steps of an edit from earlier ones instead of computing them.

Knows the noise levels and the transformer's output; does not know how the output is computed.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import FluxKontextPipeline

_FIRST_STEPS = 3
_LAST_STEPS = 3
_INTERVAL = 3
"""The first steps decide the composition, the last ones the details; between them one step of three
is computed. Replicate's `go_fast` for this model does the same, and computes 14 of its 30 steps."""

_Output = tuple[float, torch.Tensor]
"""A noise level, and the transformer's output at it."""


@contextmanager
def step_cache(pipeline: FluxKontextPipeline, steps: int, branches: int) -> Iterator[None]:
    """Predict the transformer's output within, except at steps that are computed.

    diffusers' own hooks are in every block, where they break compiled graphs, and share one state
    between both branches of guidance and between jobs. Here the state is one edit's and is dropped
    after it, also when it fails.

    Args:
        pipeline: The pipeline, in any precision, compiled or not.
        steps: The number of steps of the edit.
        branches: The transformer calls a step: 2 with true classifier-free guidance, else 1.
    """
    pipeline.transformer.forward = _StepCache(pipeline, steps, branches)
    try:
        yield
    finally:
        del pipeline.transformer.forward


class _StepCache:
    """The transformer's forward pass during one edit, in which some steps are predicted.

    The prediction is a first-order Taylor expansion of the whole output (TaylorSeer, arXiv
    2503.06923; lite mode in diffusers). It is taken over the noise level instead of the step,
    because the steps of the schedule are uneven.
    """

    def __init__(self, pipeline: FluxKontextPipeline, steps: int, branches: int) -> None:
        self._scheduler = pipeline.scheduler
        self._compute: Callable[..., tuple[torch.Tensor]] = pipeline.transformer.forward
        self._steps = steps
        self._outputs = [deque[_Output](maxlen=2) for _ in range(branches)]
        self._calls = 0
        self._sigmas: list[float] = []

    def __call__(self, *inputs: Any, **named: Any) -> tuple[torch.Tensor]:  # noqa: ANN401
        if not self._sigmas:  # read once, because it waits for the GPU
            self._sigmas = self._scheduler.sigmas.tolist()
        step, branch = divmod(self._calls, len(self._outputs))
        self._calls += 1
        sigma, outputs = self._sigmas[step], self._outputs[branch]
        if not is_computed(step, self._steps):
            return (_predict(outputs, sigma),)
        output = self._compute(*inputs, **named)
        outputs.append((sigma, output[0]))
        return output


def is_computed(step: int, steps: int) -> bool:
    """Return whether step `step`, from 0, of `steps` is computed; of 28 steps 13 are."""
    from_first, from_last = step - _FIRST_STEPS, steps - _LAST_STEPS - step
    return from_first < 0 or from_last <= 0 or from_first % _INTERVAL == _INTERVAL - 1


def _predict(outputs: Sequence[_Output], sigma: float) -> torch.Tensor:
    """Extrapolate the last two outputs linearly to the noise level `sigma`."""
    (before, first), (last, second) = outputs
    distance = (sigma - before) / (last - before)
    return torch.lerp(first.float(), second.float(), distance).to(second.dtype)
