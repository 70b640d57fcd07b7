"""Noise levels beyond one megapixel, as diffusers' scheduler computes with them."""

import math

import flux_model
import pytest
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux_kontext import calculate_shift

from kontext.contract.size import Size
from kontext.inference import schedule, stand_in

STEPS = 28


def tokens(size: Size) -> int:
    return size.grid.tokens


def levels(size: Size, steps: int = STEPS) -> list[float]:
    """Return the noise levels that the pipeline's scheduler uses."""
    scheduler = flux_model.scheduler()
    scheduler.set_timesteps(
        sigmas=schedule.sigmas(tokens(size), steps), mu=calculate_shift(tokens(size))
    )
    return [float(level) for level in scheduler.sigmas]


@pytest.mark.parametrize(
    ("size", "last"),
    [
        pytest.param(Size(1040, 1024), 0.106, id="just-beyond"),
        pytest.param(Size(1456, 1456), 0.143, id="2-megapixels"),
        pytest.param(Size(2048, 2048), 0.190, id="4-megapixels"),
        pytest.param(Size(2368, 2368), 0.213, id="largest"),
    ],
)
def test_the_last_step_has_little_noise_left(size: Size, last: float) -> None:
    """Of 28. With the pipeline's own levels it would be 0.484 and 0.704 at the largest sizes."""
    found = levels(size)

    assert (found[0], found[-1]) == (1, 0)
    assert found[-2] == pytest.approx(last, abs=0.001)
    assert found == sorted(found, reverse=True)


@pytest.mark.parametrize("steps", [1, 2, 28, 50])
def test_the_levels_are_those_of_the_square_root(steps: int) -> None:
    """At four times one megapixel, the odds s / (1 - s) of each level are doubled."""
    odds = [s / (1 - s) for s in levels(Size(2048, 2048), steps)[1:-1]]
    even = [1 - step / steps for step in range(1, steps)]

    assert odds == pytest.approx([2 * math.exp(1.15) * s / (1 - s) for s in even], rel=1e-4)


@pytest.mark.parametrize("size", [Size(256, 256), Size(1184, 880), Size(1024, 1024)], ids=str)
def test_up_to_one_megapixel_the_pipeline_is_left_alone(size: Size) -> None:
    """No levels are passed, so the pipeline uses its own."""
    assert schedule.sigmas(tokens(size), STEPS) is None


def test_the_shift_is_continuous_at_one_megapixel() -> None:
    """There, our formula and the pipeline's give the same shift."""
    assert schedule.mu(schedule.LINE_END_TOKENS) == pytest.approx(calculate_shift(4096))


def test_the_line_is_the_stand_ins_too() -> None:
    """Its scheduler is configured as FLUX's, so the levels are right for both."""
    config = FlowMatchEulerDiscreteScheduler.load_config(stand_in.WEIGHTS / "scheduler")
    own = flux_model.scheduler().config

    ends = ("base_image_seq_len", "base_shift", "max_image_seq_len", "max_shift")
    assert [config[end] for end in ends] == [own[end] for end in ends] == [256, 0.5, 4096, 1.15]
