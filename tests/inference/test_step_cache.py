"""Which steps are predicted, from which outputs, and what prediction must not change."""

import math
from contextlib import suppress
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kontext.errors import Cancelled
from kontext.inference.step_cache import is_computed, step_cache
from tests.support.editors import FAST, TURBO, editor_for, pipeline_of
from tests.support.edits import an_edit, done


class Line:
    """A transformer whose output is linear in the noise level, differently for each branch."""

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
    """As in Replicate's worker: the first three, the last three, and every third in between."""
    computed = [step for step in range(28) if is_computed(step, 28)]

    assert computed == [0, 1, 2, 5, 8, 11, 14, 17, 20, 23, 25, 26, 27]


@given(st.integers(1, 50))
def test_ends_are_computed_and_no_gap_is_longer_than_two(steps: int) -> None:
    """A line needs two points, and is accurate for a few steps only."""
    computed = [is_computed(step, steps) for step in range(steps)]

    assert all(computed[:3])
    assert all(computed[-3:])
    assert not any(not any(computed[step : step + 3]) for step in range(steps - 2))


@pytest.mark.parametrize("branches", [1, 2])
def test_a_linear_output_is_predicted_exactly(branches: int) -> None:
    """For uneven noise levels, and for each branch of guidance separately."""
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
    """Progress is reported, and a stop noticed, at predicted steps too."""
    editor, computed = editor_for(TURBO), []
    reported: list[int] = []
    embedder = pipeline_of(editor).transformer.x_embedder
    embedder.register_forward_hook(lambda *_: computed.append(1))
    editor.edit(an_edit(num_inference_steps=28, negative_prompt=negative_prompt), reported.append)

    assert len(computed) == calls
    assert reported == list(range(1, 29))


def test_turbo_differs_from_fast_only_where_steps_are_predicted() -> None:
    """All steps of a short edit are computed."""
    fast, turbo = editor_for(FAST), editor_for(TURBO)

    assert done(turbo, an_edit(num_inference_steps=6)) == done(fast, an_edit(num_inference_steps=6))
    assert done(turbo, an_edit(num_inference_steps=28)) != done(
        fast, an_edit(num_inference_steps=28)
    )


def test_nothing_is_predicted_after_the_edit() -> None:
    """Also when it failed, the transformer has its own forward pass again."""
    pipeline = pipeline_of(editor_for(TURBO))
    with suppress(Cancelled), step_cache(pipeline, 28, 1):
        assert "forward" in vars(pipeline.transformer)
        raise Cancelled

    assert "forward" not in vars(pipeline.transformer)
