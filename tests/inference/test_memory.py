"""How much memory a plan is expected to need."""

import pytest

from kontext.inference.memory import WORKING_BYTES, peak_bytes, weight_bytes
from kontext.inference.plan import EXACT, Plan


def test_the_plan_counts_the_published_weight_bytes() -> None:
    """The bfloat16 files have 33.74 GB: transformer 23.80, T5 9.52, CLIP 0.25, VAE 0.17.

    The float32 copy of the VAE's encoder takes 0.14 GB.
    """
    files = 23.80e9 + 9.52e9 + 0.25e9 + 0.17e9

    assert weight_bytes(EXACT) == pytest.approx(files + 0.14e9, rel=1e-3)


@pytest.mark.parametrize(
    "smaller",
    [
        pytest.param(Plan(transformer="float8"), id="transformer"),
        pytest.param(Plan(modulation="int8 weights"), id="modulation"),
        pytest.param(Plan(text_encoder="int8 weights"), id="text-encoder"),
    ],
)
def test_quantised_weights_take_less_memory(smaller: Plan) -> None:
    """In each of the three parts."""
    assert weight_bytes(smaller) < weight_bytes(EXACT)


def test_the_peak_includes_the_memory_that_an_edit_needs() -> None:
    """It is the same for weights in any precision."""
    for plan in EXACT, Plan(transformer="float8"):
        assert peak_bytes(plan) - weight_bytes(plan) == WORKING_BYTES > 0
