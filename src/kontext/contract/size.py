"""Image sizes: 'W*H' and pixels, the 16-pixel grid, areas and their limits.

Pure arithmetic. Knows nothing of images, requests or settings.
"""

import math
import re
from dataclasses import dataclass
from typing import Self

GRID = 16
"""Pixels to a side of one transformer token: the VAE shrinks 8 times, 2*2 latents are packed."""

MEGAPIXEL = 1_000_000
"""Pixels, decimal, as the price and every setting count them."""

NATIVE_AREA = 1024 * 1024
"""Pixels the model was trained at (the area of diffusers' `PREFERRED_KONTEXT_RESOLUTIONS`)."""

NEAR_ASPECT = 0.02
"""Part by which aspects may differ and an image still be stretched from one to the other. What
`Size.native` rounds to the grid differs by 1.8 % at most, for aspects from 3:7 to 7:3; Black Forest
Labs' own code stretches every image, by 2.9 % in the mean."""

MAX_REFERENCE_SIDE = 4096
"""Pixels. The pipeline keeps position ids in bfloat16, which is exact up to 256 tokens."""

_FORMAT = re.compile(r"([0-9]{1,5})\*([0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class Size:
    """Width and height in pixels, both at least 1."""

    width: int
    height: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read 'width*height'.

        Raises:
            ValueError: `text` is not two whole numbers joined by an asterisk.
        """
        if not (match := _FORMAT.fullmatch(text)):
            raise ValueError(text)
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        """Write it the way the contract does."""
        return f"{self.width}*{self.height}"

    @property
    def area(self) -> int:
        """Pixels."""
        return self.width * self.height

    @property
    def tokens(self) -> int:
        """Tokens of the transformer, for a size on the grid."""
        return self.area // GRID**2

    @property
    def grid(self) -> "Size":
        """The next size up whose sides the transformer can generate, at most 15 px more."""
        return Size(_up(self.width), _up(self.height))

    def has_aspect_near(self, other: "Size") -> bool:
        """Tell whether the aspects differ by no more than `NEAR_ASPECT`."""
        ratio = self.width * other.height / (self.height * other.width)
        return 1 / (1 + NEAR_ASPECT) <= ratio <= 1 + NEAR_ASPECT

    def scaled_to_area(self, area: float) -> "Size":
        """Keep the aspect, take `area` pixels, but no side above `MAX_REFERENCE_SIDE`.

        A reference and a target of equal aspect get equal sizes, and so equal token grids.
        """
        scale = min(math.sqrt(area / self.area), MAX_REFERENCE_SIDE / max(self.width, self.height))
        return Size(max(1, round(self.width * scale)), max(1, round(self.height * scale)))

    def native(self) -> "Size":
        """Keep the aspect as the grid allows it, at about one megapixel."""
        scale = math.sqrt(NATIVE_AREA / self.area)
        return Size(_near(self.width * scale), _near(self.height * scale))


def _up(side: int) -> int:
    return -(-side // GRID) * GRID


def _near(side: float) -> int:
    return max(GRID, round(side / GRID) * GRID)


@dataclass(frozen=True, slots=True)
class SideLimits:
    """The shortest and the longest side, in pixels, that a worker delivers."""

    shortest: int
    longest: int

    def allow(self, size: Size) -> bool:
        """Tell whether both sides lie within the limits."""
        return all(self.shortest <= side <= self.longest for side in (size.width, size.height))


@dataclass(frozen=True, slots=True)
class AreaLimits:
    """The smallest and the largest area, in pixels, that the model is asked to generate."""

    smallest: float
    largest: float

    def generated(self, size: Size) -> Size:
        """Return what is generated for `size`: itself within the limits.

        Outside of them it has the limit's area and the same aspect, rounded to a pixel.
        """
        area = min(max(size.area, self.smallest), self.largest)
        return size if area == size.area else size.scaled_to_area(area)


DEFAULT_SIDES = SideLimits(shortest=256, longest=2368)

DEFAULT_AREAS = AreaLimits(smallest=0.26 * MEGAPIXEL, largest=2.1 * MEGAPIXEL)
"""FLUX.1's base model was trained on 0.1 to 2 megapixels, and Black Forest Labs' own code generates
at about one. 512 * 512, 1448 * 1448 and 1920 * 1088 lie within; the lower bound is a choice."""
