"""Define the instructions that the stand-in knows: a name and what it does to pixels.

An edit takes images (count x 3 x height x width, float32, 0 to 1) and returns as many of the same
shape. Knows neither the words of a prompt (`phrasings`) nor the networks.
"""

from collections.abc import Callable, Mapping

import torch
from torch.nn import functional

Edit = Callable[[torch.Tensor], torch.Tensor]

COLOURS: Mapping[str, tuple[float, float, float]] = {
    "red": (0.85, 0.10, 0.10),
    "orange": (0.95, 0.50, 0.05),
    "yellow": (0.95, 0.85, 0.10),
    "green": (0.10, 0.65, 0.20),
    "cyan": (0.10, 0.75, 0.80),
    "blue": (0.10, 0.20, 0.85),
    "purple": (0.50, 0.15, 0.70),
    "pink": (0.95, 0.45, 0.70),
}
FRAME = 16
"""Width of a frame in pixels, which is one token of the transformer."""


def luma(images: torch.Tensor) -> torch.Tensor:
    """Return the brightness by ITU-R BT.601, count x 1 x height x width."""
    weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    return (images * weights).sum(1, keepdim=True)


def _scaled_channels(gain: tuple[float, float, float], lift: tuple[float, float, float]) -> Edit:
    gains, lifts = (torch.tensor(three).view(1, 3, 1, 1) for three in (gain, lift))
    return lambda images: (images * gains + lifts).clamp(0, 1)


def _saturated(factor: float) -> Edit:
    return lambda images: torch.lerp(luma(images), images, factor).clamp(0, 1)


def _tinted(colour: tuple[float, float, float]) -> Edit:
    paint = torch.tensor(colour).view(1, 3, 1, 1)
    return lambda images: torch.lerp(images, paint, 0.45)


def _framed(colour: tuple[float, float, float]) -> Edit:
    paint = torch.tensor(colour).view(3, 1, 1)

    def framed(images: torch.Tensor) -> torch.Tensor:
        result = paint.expand_as(images).clone()
        inner = (..., slice(FRAME, -FRAME), slice(FRAME, -FRAME))
        result[inner] = images[inner]
        return result

    return framed


def _sepia(images: torch.Tensor) -> torch.Tensor:
    toning = torch.tensor([1.18, 0.97, 0.72]).view(1, 3, 1, 1)
    return (luma(images) * toning).clamp(0, 1)


def _blurred(images: torch.Tensor, spread: float = 6.0) -> torch.Tensor:
    """Blur images by a Gaussian with a standard deviation of `spread` pixels."""
    reach = int(3 * spread)
    places = torch.arange(-reach, reach + 1, dtype=torch.float32)
    weights = torch.exp(-(places**2) / (2 * spread**2))
    weights = (weights / weights.sum()).expand(3, 1, 1, -1)
    height, width = images.shape[-2:]
    padded = functional.pad(images, (reach,) * 4, mode="replicate")
    across = functional.conv2d(padded, weights, groups=3)
    return functional.conv2d(across, weights.transpose(2, 3), groups=3)[..., :height, :width]


def _sharpened(images: torch.Tensor) -> torch.Tensor:
    """Amplify details of 3 to 12 pixels; finer ones, which are mostly noise, stay as they are."""
    detail = _blurred(images, 3.0) - _blurred(images, 12.0)
    return (images + 3 * detail).clamp(0, 1)


COLOUR_EDITS: Mapping[str, Edit] = {
    "black and white": lambda images: luma(images).expand_as(images),
    "sepia": _sepia,
    "invert": lambda images: 1 - images,
    "brighter": _scaled_channels((0.6, 0.6, 0.6), (0.4, 0.4, 0.4)),
    "darker": _scaled_channels((0.5, 0.5, 0.5), (0, 0, 0)),
    "warmer": _scaled_channels((0.75, 0.9, 0.65), (0.25, 0.06, 0)),
    "cooler": _scaled_channels((0.65, 0.9, 0.75), (0, 0.06, 0.25)),
    "more saturated": _saturated(2.0),
    "less saturated": _saturated(0.3),
    **{f"tint {name}": _tinted(colour) for name, colour in COLOURS.items()},
}
"""Edits that change each pixel by itself."""

SPATIAL_EDITS: Mapping[str, Edit] = {
    "blur": _blurred,
    "sharpen": _sharpened,
    "mirror": lambda images: images.flip(-1),
    "upside down": lambda images: images.flip(-2),
    **{f"frame {name}": _framed(colour) for name, colour in COLOURS.items()},
}

EDITS: Mapping[str, Edit] = {**COLOUR_EDITS, **SPATIAL_EDITS}
NAMES = tuple(EDITS)
MOVES = ("mirror", "upside down")
FRAMES = tuple(name for name in NAMES if name.startswith("frame"))
WHOLE = (*MOVES, *FRAMES)
"""Edits that cannot be done by half: from guidance 1 on they are done in full."""
DIFFICULT = ("blur", "sharpen", "more saturated")
"""Edits that take more training, because of neighbouring pixels or clipped colours."""
