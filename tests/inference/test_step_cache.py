"""Steps that are predicted: which, from what, and what it must not change."""

import math
from contextlib import suppress
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kontext.errors import Cancelled
from kontext.inference.step_cache import is_computed, step_cache
from tests.inference.test_acceleration import FAST, TURBO, an_edit, done, editor_for, pipeline_of


class Line:
    """A transformer whose output lies on a line over noise levels, another for each branch."""

    def __init__(self, sigmas: list[float], branches: int) -> None:
        self.scheduler = SimpleNamespace(sigmas=torch.tensor([*sigmas, 0.0]))
        self.transformer = self
        self.computed = 0
        self.expected = [
            torch.full((1, 2, 2), (branch + 1) * 10 - (2 * branch - 1) * sigma)
            for sigma in sigmas
            for branch in range(branches)
        ]

    def forward(self, call: int) -> tuple[torch.Tensor]:
        self.computed += 1
        return (self.expected[call],)


def test_of_28_steps_13_are_computed() -> None:
    """As in Replicate's worker: the first three, the last three, and one of three between."""
    computed = [step for step in range(28) if is_computed(step, 28)]

    assert computed == [0, 1, 2, 5, 8, 11, 14, 17, 20, 23, 25, 26, 27]


@given(st.integers(1, 50))
def test_ends_are_computed_and_no_gap_is_longer_than_two(steps: int) -> None:
    """A line needs two points, and holds for a while only."""
    computed = [is_computed(step, steps) for step in range(steps)]

    assert all(computed[:3])
    assert all(computed[-3:])
    assert not any(not any(computed[step : step + 3]) for step in range(steps - 2))


@pytest.mark.parametrize("branches", [1, 2])
def test_a_line_is_continued_exactly(branches: int) -> None:
    """Over uneven noise levels, and each branch of guidance on its own."""
    sigmas = [math.cos(step / 13) for step in range(20)]
    line = Line(sigmas, branches)
    with step_cache(line, 20, branches):
        outputs = [line.forward(call)[0] for call in range(20 * branches)]

    torch.testing.assert_close(outputs, line.expected)
    assert line.computed == branches * sum(is_computed(step, 20) for step in range(20))


@pytest.mark.parametrize(("negative_prompt", "calls"), [("", 13), ("a cat", 26)])
def test_turbo_computes_half_of_the_steps_and_reports_them_all(
    negative_prompt: str, calls: int
) -> None:
    """Progress, and so cancellation, goes on through those that are predicted."""
    editor, computed = editor_for(TURBO), []
    reported: list[int] = []
    embedder = pipeline_of(editor).transformer.x_embedder
    embedder.register_forward_hook(lambda *_: computed.append(1))
    editor.edit(an_edit(num_inference_steps=28, negative_prompt=negative_prompt), reported.append)

    assert len(computed) == calls
    assert reported == list(range(1, 29))


def test_turbo_differs_from_fast_only_where_steps_are_predicted() -> None:
    """An edit of few steps is computed whole."""
    fast, turbo = editor_for(FAST), editor_for(TURBO)

    assert done(turbo, an_edit(num_inference_steps=6)) == done(fast, an_edit(num_inference_steps=6))
    assert done(turbo, an_edit(num_inference_steps=28)) != done(
        fast, an_edit(num_inference_steps=28)
    )


def test_nothing_is_predicted_outside() -> None:
    """However the edit ended, the transformer is its own again."""
    pipeline = pipeline_of(editor_for(TURBO))
    with suppress(Cancelled), step_cache(pipeline, 28, 1):
        assert "forward" in vars(pipeline.transformer)
        raise Cancelled

    assert "forward" not in vars(pipeline.transformer)
