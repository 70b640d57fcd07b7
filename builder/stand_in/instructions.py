"""What the stand-in can be told to do: each instruction's name and what it does to pixels.

An edit is a function of pictures (count x 3 x height x width, float32, 0 to 1) to pictures alike.
Knows nothing of words (`phrasings`) or networks.
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
"""Pixels: one token of the transformer."""


def luma(pictures: torch.Tensor) -> torch.Tensor:
    """Return brightness (ITU-R BT.601), count x 1 x height x width."""
    weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    return (pictures * weights).sum(1, keepdim=True)


def _scaled_channels(gain: tuple[float, float, float], lift: tuple[float, float, float]) -> Edit:
    gains, lifts = (torch.tensor(three).view(1, 3, 1, 1) for three in (gain, lift))
    return lambda pictures: (pictures * gains + lifts).clamp(0, 1)


def _saturated(factor: float) -> Edit:
    return lambda pictures: torch.lerp(luma(pictures), pictures, factor).clamp(0, 1)


def _tinted(colour: tuple[float, float, float]) -> Edit:
    paint = torch.tensor(colour).view(1, 3, 1, 1)
    return lambda pictures: torch.lerp(pictures, paint, 0.45)


def _framed(colour: tuple[float, float, float]) -> Edit:
    paint = torch.tensor(colour).view(3, 1, 1)

    def framed(pictures: torch.Tensor) -> torch.Tensor:
        result = paint.expand_as(pictures).clone()
        inner = (..., slice(FRAME, -FRAME), slice(FRAME, -FRAME))
        result[inner] = pictures[inner]
        return result

    return framed


def _sepia(pictures: torch.Tensor) -> torch.Tensor:
    toning = torch.tensor([1.18, 0.97, 0.72]).view(1, 3, 1, 1)
    return (luma(pictures) * toning).clamp(0, 1)


def _blurred(pictures: torch.Tensor, spread: float = 6.0) -> torch.Tensor:
    """Return a Gaussian blur, `spread` its standard deviation in pixels."""
    reach = int(3 * spread)
    places = torch.arange(-reach, reach + 1, dtype=torch.float32)
    weights = torch.exp(-(places**2) / (2 * spread**2))
    weights = (weights / weights.sum()).expand(3, 1, 1, -1)
    height, width = pictures.shape[-2:]
    padded = functional.pad(pictures, (reach,) * 4, mode="replicate")
    across = functional.conv2d(padded, weights, groups=3)
    return functional.conv2d(across, weights.transpose(2, 3), groups=3)[..., :height, :width]


def _sharpened(pictures: torch.Tensor) -> torch.Tensor:
    """Return more of the differences between 3 and 12 pixels' scale (unsharp, noise spared)."""
    detail = _blurred(pictures, 3.0) - _blurred(pictures, 12.0)
    return (pictures + 3 * detail).clamp(0, 1)


COLOUR_EDITS: Mapping[str, Edit] = {
    "black and white": lambda pictures: luma(pictures).expand_as(pictures),
    "sepia": _sepia,
    "invert": lambda pictures: 1 - pictures,
    "brighter": _scaled_channels((0.6, 0.6, 0.6), (0.4, 0.4, 0.4)),
    "darker": _scaled_channels((0.5, 0.5, 0.5), (0, 0, 0)),
    "warmer": _scaled_channels((0.75, 0.9, 0.65), (0.25, 0.06, 0)),
    "cooler": _scaled_channels((0.65, 0.9, 0.75), (0, 0.06, 0.25)),
    "more saturated": _saturated(2.0),
    "less saturated": _saturated(0.3),
    **{f"tint {name}": _tinted(colour) for name, colour in COLOURS.items()},
}
"""Those that change each pixel by itself."""

SPATIAL_EDITS: Mapping[str, Edit] = {
    "blur": _blurred,
    "sharpen": _sharpened,
    "mirror": lambda pictures: pictures.flip(-1),
    "upside down": lambda pictures: pictures.flip(-2),
    **{f"frame {name}": _framed(colour) for name, colour in COLOURS.items()},
}

EDITS: Mapping[str, Edit] = {**COLOUR_EDITS, **SPATIAL_EDITS}
NAMES = tuple(EDITS)
MOVES = ("mirror", "upside down")
FRAMES = tuple(name for name in NAMES if name.startswith("frame"))
WHOLE = (*MOVES, *FRAMES)
"""Edits of which there is no half: they are done from guidance 1 on."""
DIFFICULT = ("blur", "sharpen", "more saturated")
"""Edits that take more learning: of what lies around, or of where colours are clipped."""
