"""Scales the input image to the reference that the transformer reads, on the 16-pixel grid.

The pipeline would stretch it to one of 17 sizes of about one megapixel, whatever size was asked
for, so that results of other sizes come out cropped or zoomed. Here an image of nearly the target's
aspect is scaled to the target, so that both have the same token grid and each pixel keeps its
place. Any other image keeps its aspect and is scaled to the target's area. Up to the grid, at most
15 pixels to the right and below, its edge pixels are repeated; results are cropped there too.
"""

import numpy as np
from PIL import Image

from kontext.contract.size import Size

_REDUCING_GAP = 1.5
"""An image with sides at least three times as long is first averaged to no less than 1.5 times:
half the work, and photographs differ by 0.25 of 255 levels in the mean from Lanczos alone."""


def fit(image: Image.Image, target: Size) -> Image.Image:
    """Return `image` (RGB) scaled to `target`, or to its area, and padded to the grid.

    Args:
        image: The input image, of any size.
        target: The size that will be generated, which need not be on the grid.
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
