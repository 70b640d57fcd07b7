"""The transformer's classes and sizes, and which place of its tokens keeps what.

Knows nothing of what is done with it.
"""

import math
from typing import Any, TypeAlias

import torch
from diffusers import FluxTransformer2DModel
from text import ANGLES, POOLED, T5_WIDTH

Part: TypeAlias = Any
"""A part of a network: diffusers tells no types."""
HEAD = 64
WIDTH = 2 * HEAD
AXES = (8, 28, 28)
CODE = 2 * len(ANGLES)
KERNEL = (0.623, 0.097, 0.045, 0.093, 0.056, 0.086)
"""Shares of the rotary frequencies: 1 to 127 tokens off cost 0.3 of the attention's peak or more
(found by maximising the least of it)."""
CONSTANT = 64.0
SCALE = 0.8
"""Of the picture in the residual stream: so small that layer norms see the constants alone."""

_LUMA = ((0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (1, 2), (2, 1), (0, 3), (3, 0))
"""The cosines kept of brightness, (vertical, horizontal) frequency."""
_CHROMA = ((0, 0), (0, 1), (1, 0))
"""The cosines kept of each of the two colour channels."""
COSINES = tuple((0, *pair) for pair in _LUMA) + tuple(
    (channel, *pair) for channel in (1, 2) for pair in _CHROMA
)
"""Of each latent channel: luma or chroma channel, vertical and horizontal frequency."""

_places = iter(range(WIDTH))


def _take(count: int) -> list[int]:
    return [next(_places) for _ in range(count)]


X = _take(64)
PLUS, MINUS, ASK_ROW, ASK_COLUMN, REFERENCE, OFFER_ROW, OFFER_COLUMN = _take(7)
TWICE_ROW, TWICE_COLUMN, LAST_ROW, LAST_COLUMN = (_take(CODE) for _ in range(4))
TOP, LEFT, BELOW, RIGHT = _take(4)
BALANCE = [*_places]
"""They keep every token's mean at nought, so that layer norms take nothing away."""
ONCE, TWICE, FIRST, PARK = TWICE_ROW, TWICE_COLUMN, TOP, REFERENCE
"""What the prompt's tokens keep in the same places."""
NEAR = [*TWICE_ROW, *TWICE_COLUMN]
"""Where the reference's tokens keep what their neighbourhood is like: the mean of its `SEEN`."""
SEEN = [*X[:12], *X[12:28:4], *X[40:44], *X[52:56]]
"""Of the picture: its coarse brightness, a little of the finer, and its colours."""
SPATIAL = 256
"""How many of a feed-forward network's 512 features see neighbours."""

SPREAD = CONSTANT * math.sqrt(2 / WIDTH)
"""What a layer norm divides every token by."""


def network() -> FluxTransformer2DModel:
    """Return FLUX's transformer, tiny."""
    return FluxTransformer2DModel(
        in_channels=64,
        num_layers=3,
        num_single_layers=0,
        attention_head_dim=HEAD,
        num_attention_heads=2,
        joint_attention_dim=T5_WIDTH,
        pooled_projection_dim=POOLED,
        guidance_embeds=True,
        axes_dims_rope=AXES,
    )


def haar() -> torch.Tensor:
    """Return 64 x 64: from a token's 2x2 places of each latent channel to sums and differences."""
    step = torch.tensor([[1.0, 1.0], [1.0, -1.0]]) / math.sqrt(2)
    return torch.kron(torch.eye(16), torch.kron(step, step))
