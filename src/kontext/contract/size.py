"""Image sizes: 'W*H' in the contract, the model's 16-pixel grid, areas and their limits.

Pure arithmetic: does not know images, requests or settings.
"""

import math
import re
from dataclasses import dataclass
from typing import Self

GRID = 16
"""Pixels on each side of a transformer token: the VAE reduces sides by 8 and packs 2*2 latents."""

MEGAPIXEL = 1_000_000
"""Pixels: the price and every setting count decimal megapixels."""

NATIVE_AREA = 1024 * 1024
"""Pixels that the model was trained on (those of diffusers' `PREFERRED_KONTEXT_RESOLUTIONS`)."""

NEAR_ASPECT = 0.02
"""The relative difference of aspects up to which an image is stretched from one to the other.
Rounding to the grid in `Size.native` changes aspects from 3:7 to 7:3 by 1.8 % at most; Black Forest
Labs' own code stretches every image, by 2.9 % in the mean."""

MAX_REFERENCE_SIDE = 4096
"""Pixels. The pipeline stores position ids in bfloat16, which is exact up to 256 tokens."""

MAX_ASPECT = 21 / 9
"""The widest aspect ratio that Black Forest Labs' own API accepts; the narrowest is its inverse."""

_ASPECT_RATIO = re.compile(r"([0-9]{1,4}):([0-9]{1,4})")
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

    @classmethod
    def of_aspect_ratio(cls, text: str) -> "Size":
        """Return the size on the grid for 'width:height', at about one megapixel.

        Raises:
            ValueError: `text` is not a ratio between `MAX_ASPECT` and its inverse.
        """
        match = _ASPECT_RATIO.fullmatch(text)
        if not match or not int(match[1]) * int(match[2]):
            raise ValueError(text)
        shape = cls(int(match[1]), int(match[2]))
        if not 1 / MAX_ASPECT <= shape.width / shape.height <= MAX_ASPECT:
            raise ValueError(text)
        return shape.native()

    def __str__(self) -> str:
        """Write the size as the contract does."""
        return f"{self.width}*{self.height}"

    @property
    def area(self) -> int:
        """The number of pixels."""
        return self.width * self.height

    @property
    def tokens(self) -> int:
        """The number of transformer tokens, for a size on the grid."""
        return self.area // GRID**2

    @property
    def grid(self) -> "Size":
        """The smallest size on the grid that contains this one: at most 15 pixels more a side."""
        return Size(_round_up(self.width), _round_up(self.height))

    def has_aspect_near(self, other: "Size") -> bool:
        """Tell whether the aspects differ by no more than `NEAR_ASPECT`."""
        ratio = self.width * other.height / (self.height * other.width)
        return 1 / (1 + NEAR_ASPECT) <= ratio <= 1 + NEAR_ASPECT

    def scaled_to_area(self, area: float) -> "Size":
        """Return the size of this aspect with `area` pixels, no side above `MAX_REFERENCE_SIDE`.

        A reference and a target of equal aspect get equal sizes, and so equal token grids.
        """
        scale = min(math.sqrt(area / self.area), MAX_REFERENCE_SIDE / max(self.width, self.height))
        return Size(max(1, round(self.width * scale)), max(1, round(self.height * scale)))

    def native(self) -> "Size":
        """Return the size on the grid of nearly this aspect and about one megapixel."""
        scale = math.sqrt(NATIVE_AREA / self.area)
        return Size(_round_to_grid(self.width * scale), _round_to_grid(self.height * scale))


def _round_up(side: int) -> int:
    return -(-side // GRID) * GRID


def _round_to_grid(side: float) -> int:
    return max(GRID, round(side / GRID) * GRID)


@dataclass(frozen=True, slots=True)
class SideLimits:
    """The shortest and the longest side, in pixels, of the images that a worker delivers."""

    shortest: int
    longest: int

    def allow(self, size: Size) -> bool:
        """Tell whether both sides are within the limits, which are inclusive."""
        return all(self.shortest <= side <= self.longest for side in (size.width, size.height))


@dataclass(frozen=True, slots=True)
class AreaLimits:
    """The smallest and the largest area, in pixels, that the model is asked to generate."""

    smallest: float
    largest: float

    def generated(self, size: Size) -> Size:
        """Return the size to generate for an image of `size`.

        Within the limits that is `size`; else the same aspect, rounded to a pixel, at the limit.
        """
        area = min(max(size.area, self.smallest), self.largest)
        return size if area == size.area else size.scaled_to_area(area)


DEFAULT_SIDES = SideLimits(shortest=256, longest=2368)

DEFAULT_AREAS = AreaLimits(smallest=0.26 * MEGAPIXEL, largest=2.1 * MEGAPIXEL)
"""FLUX.1's base model was trained on 0.1 to 2 megapixels, and Black Forest Labs' own code generates
at about one. 512 * 512, 1448 * 1448 and 1920 * 1088 are within; the lower bound is a choice."""
