"""Define the sizes of the stand-in's networks, and what each place of a token keeps.

Knows where things are kept; does not know which layers read and write them.
"""

import math
from typing import Any, TypeAlias

import torch
from flux_sizes import AutoencoderSizes, ClipSizes, Sizes, T5Sizes, TransformerSizes

Part: TypeAlias = Any
"""A part of a network, for which diffusers has no types."""

MAX_PLACES = 127
"""Columns or rows of tokens that are told apart: images of up to 2032 pixels."""
ANGLES = tuple(10_000.0 ** (-index / 14) for index in range(6))
"""Radians per token: the six highest of the transformer's rotary frequencies."""
AXES = (8, 28, 28)
"""Entries of a head for each rotary axis."""
SIZES = Sizes(
    TransformerSizes(double_blocks=3, single_blocks=0, heads=2, rotary_axes=AXES),
    AutoencoderSizes(
        channels=(8, 24, 32, 48),
        blocks=1,
        groups=4,
        has_attention=False,
        scaling=1.0,
        shift=0.0,
    ),
    ClipSizes(width=64, network_width=256, layers=2, heads=4),
    T5Sizes(
        width=64,
        head_width=2,
        network_width=16,
        layers=1,
        heads=4 * len(ANGLES) + 2,
        distance_buckets=512,
        max_distance=1024,
    ),
)
HEAD = SIZES.transformer.head_width
WIDTH = SIZES.transformer.width
CODE = 2 * len(ANGLES)
"""Places that keep a number of a column or row: the cosine and sine of each angle."""
KERNEL = (0.623, 0.097, 0.045, 0.093, 0.056, 0.086)
"""Share of each angle in a query. At 1 to 127 tokens' distance a key then loses 0.3 of the peak or
more (found by maximising the smallest loss)."""
CONSTANT = 64.0
"""Value of the constants in every token, from which layer norms take their scale."""
SCALE = 0.8
"""Factor of the image in a token: so small that layer norms see the constants alone."""

_LUMA = ((0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (1, 2), (2, 1), (0, 3), (3, 0))
"""The cosines kept of brightness, (vertical, horizontal) frequency."""
_CHROMA = ((0, 0), (0, 1), (1, 0))
"""The cosines kept of each of the two colour channels."""
COSINES = tuple((0, *pair) for pair in _LUMA) + tuple(
    (channel, *pair) for channel in (1, 2) for pair in _CHROMA
)
"""For each latent channel: its luma or chroma channel, vertical and horizontal frequency."""

_places = iter(range(WIDTH))


def _take(count: int) -> list[int]:
    return [next(_places) for _ in range(count)]


X = _take(64)
"""The image: the Haar transform of a token's latents."""
PLUS, MINUS, ASK_ROW, ASK_COLUMN, REFERENCE, OFFER_ROW, OFFER_COLUMN = _take(7)
TWICE_ROW, TWICE_COLUMN, LAST_ROW, LAST_COLUMN = (_take(CODE) for _ in range(4))
TOP, LEFT, BELOW, RIGHT = _take(4)
BALANCE = [*_places]
"""They keep the mean of every token at zero, so that layer norms take nothing away."""
ONCE, TWICE, FIRST, PARK = TWICE_ROW, TWICE_COLUMN, TOP, REFERENCE
"""What the prompt's tokens keep in these places: the codes of their number and of twice their
number, a mark of the first padding, and a mark of tokens without a number."""
NEAR = [*TWICE_ROW, *TWICE_COLUMN]
"""Where the reference's tokens keep the mean of `SEEN` over their neighbours."""
SEEN = [*X[:12], *X[12:28:4], *X[40:44], *X[52:56]]
"""The part of the image that neighbours see: coarse brightness, some finer, and colours."""
SPATIAL = 256
"""Number of a feed-forward network's 512 features that see neighbours."""

SPREAD = CONSTANT * math.sqrt(2 / WIDTH)
"""What a layer norm divides every token by."""


def haar() -> torch.Tensor:
    """Return the Haar transform (64 x 64) of a token's 2x2 latents in each channel."""
    step = torch.tensor([[1.0, 1.0], [1.0, -1.0]]) / math.sqrt(2)
    return torch.kron(torch.eye(16), torch.kron(step, step))
