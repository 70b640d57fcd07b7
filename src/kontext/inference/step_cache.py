"""Steps of an edit that are predicted from those before, instead of computed.

Knows the schedule and the transformer's output, and nothing of how that is computed.
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
"""The first steps decide the composition, the last the details; between them one of three is
computed. So does the `go_fast` of Replicate's worker for this model, for 14 of its 30 steps."""

_Known = tuple[float, torch.Tensor]
"""A noise level and the transformer's output there."""


@contextmanager
def step_cache(pipeline: FluxKontextPipeline, steps: int, branches: int) -> Iterator[None]:
    """Within, the transformer's output is predicted at the steps that `is_computed` leaves out.

    diffusers' own hooks sit in every block, where they break the compiled graphs, and hold one
    state for both branches of guidance and from one job to the next. Here all state belongs to the
    edit, and ends with it, however it ends.

    Args:
        pipeline: Whatever its precision, compiled or not.
        steps: How many the edit has.
        branches: Calls of the transformer a step: 2 with true classifier-free guidance, else 1.
    """
    pipeline.transformer.forward = _StepCache(pipeline, steps, branches)
    try:
        yield
    finally:
        del pipeline.transformer.forward


class _StepCache:
    """The transformer's forward pass of one edit, in which some steps are predicted.

    A Taylor expansion of first order, of the output as a whole (TaylorSeer, arXiv 2503.06923;
    diffusers calls that its lite mode), but in the noise level: the schedule's steps are uneven.
    """

    def __init__(self, pipeline: FluxKontextPipeline, steps: int, branches: int) -> None:
        self._scheduler = pipeline.scheduler
        self._compute: Callable[..., tuple[torch.Tensor]] = pipeline.transformer.forward
        self._steps = steps
        self._known = [deque[_Known](maxlen=2) for _ in range(branches)]
        self._calls = 0
        self._sigmas: list[float] = []

    def __call__(self, *inputs: Any, **named: Any) -> tuple[torch.Tensor]:  # noqa: ANN401
        if not self._sigmas:  # one wait for the device, before the first step
            self._sigmas = self._scheduler.sigmas.tolist()
        step, branch = divmod(self._calls, len(self._known))
        self._calls += 1
        sigma, known = self._sigmas[step], self._known[branch]
        if not is_computed(step, self._steps):
            return (_predict(known, sigma),)
        output = self._compute(*inputs, **named)
        known.append((sigma, output[0]))
        return output


def is_computed(step: int, steps: int) -> bool:
    """Tell whether a step, counted from 0, of so many is computed; of 28 it is 13."""
    from_first, from_last = step - _FIRST_STEPS, steps - _LAST_STEPS - step
    return from_first < 0 or from_last <= 0 or from_first % _INTERVAL == _INTERVAL - 1


def _predict(known: Sequence[_Known], sigma: float) -> torch.Tensor:
    """Continue the line through the last two outputs."""
    (before, first), (last, second) = known
    distance = (sigma - before) / (last - before)
    return torch.lerp(first.float(), second.float(), distance).to(second.dtype)
