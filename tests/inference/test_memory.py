"""How much memory a plan is expected to need."""

import pytest

from kontext.inference.memory import WORKING_BYTES, peak_bytes, weight_bytes
from kontext.inference.plan import EXACT, Plan


def test_the_plan_counts_the_published_weight_bytes() -> None:
    """Bfloat16 files of 33.74 GB: transformer 23.80, T5 9.52, CLIP 0.25, VAE 0.17.

    The VAE's encoder once more in float32 takes 0.14.
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
def test_what_is_quantised_takes_less(smaller: Plan) -> None:
    """Each of the three counts."""
    assert weight_bytes(smaller) < weight_bytes(EXACT)


def test_the_peak_includes_the_memory_that_an_edit_needs() -> None:
    """Beside the weights, whatever their precision."""
    for plan in EXACT, Plan(transformer="float8"):
        assert peak_bytes(plan) - weight_bytes(plan) == WORKING_BYTES > 0
