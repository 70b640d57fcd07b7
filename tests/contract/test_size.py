"""Sizes, the grid and areas."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kontext.contract.size import (
    DEFAULT_AREAS,
    GRID,
    MAX_REFERENCE_SIDE,
    MEGAPIXEL,
    NATIVE_AREA,
    AreaLimits,
    SideLimits,
    Size,
)

sides = st.integers(min_value=1, max_value=10_000)
sizes = st.builds(Size, sides, sides)


@given(sizes)
def test_a_size_reads_back_as_it_is_written(size: Size) -> None:
    """'width*height' keeps the whole size."""
    assert Size.parse(str(size)) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1024",
        "1024x1024",
        "1024*",
        "*1",
        "-1*1",
        " 1*1",
        "1*1\n",
        "1*1*1",
        "\u0661*\u0661",
        "1.0*1",
    ],
)
def test_other_notations_are_refused(text: str) -> None:
    """Only two runs of ASCII digits joined by an asterisk are a size."""
    with pytest.raises(ValueError):  # noqa: PT011 - says nothing, its callers do
        Size.parse(text)


@given(sizes)
def test_the_grid_is_the_next_multiple_up(size: Size) -> None:
    """Both sides are on the grid, and longer by less than one grid step."""
    for side, canvas in ((size.width, size.grid.width), (size.height, size.grid.height)):
        assert canvas % GRID == 0
        assert 0 <= canvas - side < GRID


parts = st.integers(min_value=1, max_value=37)


@given(
    aspect=st.builds(Size, parts, parts),
    source=st.integers(min_value=16, max_value=270),
    target=st.integers(min_value=16, max_value=64),
)
def test_equal_aspects_give_equal_sizes(aspect: Size, source: int, target: int) -> None:
    """An image that is the target at another scale becomes exactly the target's size."""
    wanted = Size(aspect.width * target, aspect.height * target)
    image = Size(aspect.width * source, aspect.height * source)

    assert image.scaled_to_area(wanted.area) == wanted


@given(source=sizes, area=st.integers(min_value=256**2, max_value=2368**2))
def test_scaling_keeps_the_aspect_and_reaches_the_area(source: Size, area: int) -> None:
    """Both sides are within a pixel of the exact scale, unless the longest side caps it."""
    scaled = source.scaled_to_area(area)

    exact = min((area / source.area) ** 0.5, MAX_REFERENCE_SIDE / max(source.width, source.height))
    assert abs(scaled.width - max(1, source.width * exact)) <= 1
    assert abs(scaled.height - max(1, source.height * exact)) <= 1
    assert max(scaled.width, scaled.height) <= MAX_REFERENCE_SIDE


@pytest.mark.parametrize(
    ("source", "native"),
    [
        (Size(512, 512), Size(1024, 1024)),
        (Size(1920, 1080), Size(1360, 768)),
        (Size(4032, 3024), Size(1184, 880)),
        (Size(3024, 4032), Size(880, 1184)),
    ],
)
def test_native_sizes_are_those_the_model_was_trained_at(source: Size, native: Size) -> None:
    """Common camera aspects become grid sizes near one megapixel."""
    assert source.native() == native
    assert abs(native.area - NATIVE_AREA) / NATIVE_AREA < 0.01


@given(short=st.integers(16, 10_000), aspect=st.floats(min_value=1, max_value=7 / 3))
def test_a_native_size_has_nearly_the_aspect_of_its_image(short: int, aspect: float) -> None:
    """From 1:1 to 7:3 by no more than 1.8 %, so that a reference may be scaled onto it."""
    source = Size(int(short * aspect), short)
    native = source.native()
    ratio = source.width * native.height / (source.height * native.width)

    assert source.has_aspect_near(native)
    assert native.has_aspect_near(source)
    assert abs(ratio - 1) <= 0.018


@pytest.mark.parametrize(
    ("one", "other", "near"),
    [
        (Size(1000, 1000), Size(1020, 1000), True),
        (Size(1000, 1000), Size(1000, 1020), True),
        (Size(1000, 1000), Size(1021, 1000), False),
        (Size(1000, 1000), Size(1000, 1021), False),
        (Size(1600, 1200), Size(1184, 880), True),
        (Size(1500, 1000), Size(1600, 1200), False),
    ],
    ids=str,
)
def test_aspects_within_2_percent_are_near(one: Size, other: Size, near: bool) -> None:
    """In either direction, by ratio."""
    assert one.has_aspect_near(other) is near


def test_limits_are_inclusive() -> None:
    """A side may be exactly the shortest or the longest."""
    limits = SideLimits(256, 2368)

    assert limits.allow(Size(256, 2368))
    assert not limits.allow(Size(255, 1024))
    assert not limits.allow(Size(1024, 2369))


deliverable = st.integers(min_value=256, max_value=2368)


@given(st.builds(Size, deliverable, deliverable))
def test_every_deliverable_size_is_generated_within_the_areas(size: Size) -> None:
    """Unchanged within the limits, else at the limit's area with its aspect to half a pixel."""
    generated = DEFAULT_AREAS.generated(size)
    if 0.26 * MEGAPIXEL <= size.area <= 2.1 * MEGAPIXEL:
        assert generated == size
        return

    limit = (0.26 if size.area < MEGAPIXEL else 2.1) * MEGAPIXEL
    assert abs(generated.area - limit) <= generated.width + generated.height
    assert abs(generated.height - generated.width * size.height / size.width) <= 1 + (
        size.height / size.width
    )


@pytest.mark.parametrize(
    ("asked", "generated"),
    [
        (Size(256, 256), Size(510, 510)),
        (Size(511, 509), Size(511, 509)),
        (Size(512, 512), Size(512, 512)),
        (Size(1448, 1448), Size(1448, 1448)),
        (Size(1920, 1080), Size(1920, 1080)),
        (Size(2048, 2048), Size(1449, 1449)),
        (Size(2368, 1184), Size(2049, 1025)),
        (Size(2368, 2368), Size(1449, 1449)),
    ],
    ids=str,
)
def test_sizes_outside_the_trained_areas_are_generated_at_their_bounds(
    asked: Size, generated: Size
) -> None:
    """256*256 is 0.066 megapixels; 2368*2368 is 5.6, which takes 12 times the work of one."""
    assert DEFAULT_AREAS.generated(asked) == generated


@given(st.builds(Size, deliverable, deliverable))
def test_limits_can_be_switched_off(size: Size) -> None:
    """With limits of zero and infinity every size is generated as it is."""
    assert AreaLimits(0, math.inf).generated(size) == size
