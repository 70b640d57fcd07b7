"""The reference has its target's size, or its own aspect, and shows the whole image."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kontext.contract.request import EditRequest
from kontext.contract.size import GRID, Size
from kontext.images import reference


def gradient(width: int, height: int) -> Image.Image:
    """Return an image whose red is its x and whose green is its y, 0 to 255."""
    x, y = np.linspace(0, 255, width), np.linspace(0, 255, height)
    red, green = np.meshgrid(x, y)
    return Image.fromarray(np.stack([red, green, 0 * red], axis=-1).astype(np.uint8))


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (Size(512, 512), Size(1024, 1024)),
        (Size(2944, 2280), Size(1472, 1140)),
        (Size(736, 570), Size(1472, 1140)),
        (Size(1001, 333), Size(1001, 333)),
    ],
    ids=str,
)
def test_equal_aspects_share_the_grid(source: Size, target: Size) -> None:
    """Of equal aspect, on the grid or off it, reference and canvas are the same size."""
    fitted = reference.fit(gradient(source.width, source.height), target)

    assert Size(*fitted.size) == target.grid


def assert_whole_within(fitted: Image.Image, image: Image.Image, frame: Size) -> None:
    """Assert that the grids are equal and the frame shows the image from edge to edge."""
    sides = (frame.width, frame.height)
    whole = image.resize(sides, Image.Resampling.LANCZOS, reducing_gap=1.5)

    assert Size(*fitted.size) == frame.grid
    assert fitted.crop((0, 0, *sides)).tobytes() == whole.tobytes()


@settings(max_examples=25, deadline=None)
@given(
    short=st.integers(min_value=64, max_value=900),
    aspect=st.floats(min_value=1, max_value=7 / 3),
    upright=st.booleans(),
)
def test_match_input_aligns_reference_and_result(short: int, aspect: float, upright: bool) -> None:
    """The result's sides are rounded to the grid, and so are the reference's: no edge is repeated.

    A reference of its own exact aspect had another grid in 89 % of 5,010 aspects, and repeated
    edges within the result in 90 %.
    """
    sides = (short, int(short * aspect))
    image = gradient(*sides if upright else sides[::-1])
    asked = EditRequest.parse({"prompt": "p", "image": "data:,", "size": "match_input"})
    result = asked.output_size(Size(*image.size))

    assert_whole_within(reference.fit(image, result), image, result)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        pytest.param(Size(1600, 1200), Size(1184, 880), id="4:3-on-the-grid"),
        pytest.param(Size(1920, 1080), Size(1360, 768), id="16:9-on-the-grid"),
        pytest.param(Size(1600, 1200), Size(1000, 745), id="4:3-off-the-grid"),
    ],
)
def test_a_size_of_nearly_the_images_aspect_shares_its_grid(source: Size, target: Size) -> None:
    """For a size off the grid, the padding is outside of the result, which is cropped there."""
    image = gradient(source.width, source.height)

    assert_whole_within(reference.fit(image, target), image, target)


@pytest.mark.parametrize("source", [Size(4000, 3000), Size(300, 900), Size(64, 64)], ids=str)
@pytest.mark.parametrize("target", [Size(1024, 1024), Size(512, 768), Size(257, 2111)], ids=str)
def test_other_aspects_get_the_targets_area(source: Size, target: Size) -> None:
    """The reference keeps its aspect and has the target's area, apart from padding to the grid."""
    fitted = Size(*reference.fit(gradient(source.width, source.height), target).size)

    exact = source.scaled_to_area(target.area)
    assert fitted == exact.grid
    assert abs(exact.area - target.area) <= exact.width + exact.height


def test_a_image_of_another_aspect_is_not_stretched() -> None:
    """Without the padding both axes have the same scale; the padding repeats the edge."""
    fitted = np.asarray(reference.fit(gradient(1000, 500), Size(700, 700)), dtype=int)
    scaled = Size(1000, 500).scaled_to_area(700 * 700)
    image = fitted[: scaled.height, : scaled.width]

    assert fitted.shape == (scaled.grid.height, scaled.grid.width, 3)
    assert np.abs(image[0, :, 0] - np.linspace(0, 255, scaled.width)).max() <= 2
    assert np.abs(image[:, 0, 1] - np.linspace(0, 255, scaled.height)).max() <= 2
    assert (fitted[scaled.height :] == fitted[scaled.height - 1]).all()
    assert (fitted[:, scaled.width :] == fitted[:, scaled.width - 1 : scaled.width]).all()


def test_a_very_long_image_stays_within_the_exact_positions() -> None:
    """Even of the longest accepted image, bfloat16 represents every position exactly."""
    fitted = reference.fit(gradient(16, 10_000), Size(1024, 1024))

    assert fitted.size == (GRID, 4096)


def test_scaling_far_down_is_as_good_as_lanczos_alone() -> None:
    """The fast path for large images changes photographs by less than one level in the mean."""
    cells = np.random.default_rng(0).integers(0, 255, (150, 200, 3), dtype=np.uint8)
    image = Image.fromarray(cells).resize((2048, 1536), Image.Resampling.BICUBIC)
    fitted = np.asarray(reference.fit(image, Size(512, 384)), dtype=int)
    exact = np.asarray(image.resize((512, 384), Image.Resampling.LANCZOS), dtype=int)

    assert fitted.shape == exact.shape
    assert np.abs(fitted - exact).mean() < 1


def test_a_image_that_fits_is_left_alone() -> None:
    """An image that has the target's size is not resampled."""
    image = gradient(512, 384)

    assert reference.fit(image, Size(512, 384)).tobytes() == image.tobytes()
