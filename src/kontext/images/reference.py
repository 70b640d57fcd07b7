"""The reference image as the transformer reads it: scaled to its target, on the 16-pixel grid.

The pipeline would stretch it to one of 17 sizes of about one megapixel, whatever the size asked
for, so that other sizes come out cropped or zoomed. Here an image of nearly the target's aspect is
scaled to the target itself, so that both share a token grid and each pixel of the one lies where it
lies in the other. Any other keeps its aspect and takes the target's area. Edge pixels fill the
grid, at most 15 to the right and below, where a result off the grid is cropped.
"""

import numpy as np
from PIL import Image

from kontext.contract.size import Size

_REDUCING_GAP = 1.5
"""An image of three times the sides and more is first averaged to no less than 1.5 times: half
the work, and photographs differ by 0.25 of 255 levels in the mean from Lanczos alone."""


def fit(image: Image.Image, target: Size) -> Image.Image:
    """Return `image` (RGB) scaled to `target`, or to its area, and padded to the grid.

    Args:
        image: Any size.
        target: What will be generated, on the grid or off it.
    """
    scaled = _scaled(Size(*image.size), target)
    sides = (scaled.width, scaled.height)
    resized = image.resize(sides, Image.Resampling.LANCZOS, reducing_gap=_REDUCING_GAP)
    right, below = scaled.grid.width - scaled.width, scaled.grid.height - scaled.height
    if not right and not below:
        return resized
    return Image.fromarray(np.pad(np.asarray(resized), ((0, below), (0, right), (0, 0)), "edge"))


def _scaled(source: Size, target: Size) -> Size:
    return target if source.has_aspect_near(target) else source.scaled_to_area(target.area)
