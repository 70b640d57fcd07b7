"""Compute the transformer's work in an edit, and the least time that a card needs for it. No torch.

The floor is the time of the matrix products and attention alone, at the rates measured on the card:
without other kernels, gaps, text encoders or autoencoder.
"""

from typing import Any

from flux_sizes import FULL

WIDTH = FULL.transformer.width
DOUBLE_BLOCKS, SINGLE_BLOCKS = FULL.transformer.double_blocks, FULL.transformer.single_blocks
PROMPT_TOKENS = 512

PRODUCTS = {
    "projection": (1, 1),
    "q, k, v joined": (1, 3),
    "network, in": (1, 4),
    "network, out": (4, 1),
    "single block, in, joined": (1, 7),
    "single block, out": (5, 1),
}
"""The linear layers: inputs and outputs in multiples of the transformer's width."""

SEPARATE = {
    "projection": 4 * DOUBLE_BLOCKS + 3 * SINGLE_BLOCKS,
    "network, in": DOUBLE_BLOCKS + SINGLE_BLOCKS,
    "network, out": DOUBLE_BLOCKS,
    "single block, out": SINGLE_BLOCKS,
}
"""Number of products in a step if every linear layer is one product. A double block multiplies text
and image separately; here they count as one product of all tokens."""

JOINED = {
    "projection": DOUBLE_BLOCKS,
    "q, k, v joined": DOUBLE_BLOCKS,
    "network, in": DOUBLE_BLOCKS,
    "network, out": DOUBLE_BLOCKS,
    "single block, in, joined": SINGLE_BLOCKS,
    "single block, out": SINGLE_BLOCKS,
}
"""The same work if linear layers that read the same tokens are one product."""


def tflop_per_step(width: int, height: int, references: int = 1) -> tuple[float, float]:
    """Return the work of one transformer call, in linears and in attention, in TFLOP.

    A multiplication and an addition count as two. Each token is multiplied with 12 * width^2
    weights of a block. The modulation is left out, because it is computed for one vector only.

    Args:
        width: Width of the result in pixels.
        height: Height of the result in pixels.
        references: Number of reference images of the result's area.
    """
    tokens = PROMPT_TOKENS + (1 + references) * width * height // 256
    blocks = DOUBLE_BLOCKS + SINGLE_BLOCKS
    linear = 2 * tokens * 12 * WIDTH**2 * blocks
    attention = 4 * tokens**2 * WIDTH * blocks
    return linear / 1e12, attention / 1e12


def floor(
    rates: dict[str, dict[str, Any]], products: str, attention: str, steps: int
) -> float | None:
    """Return the least seconds of an edit on this card, or None if a rate is missing.

    Args:
        rates: Rows of `gpu_rates.rates`, by name.
        products: Precision of the products: bfloat16, float8 or int8.
        attention: Precision of attention, bfloat16 or float8; its fastest kernel counts.
        steps: Number of steps that are computed.
    """
    seconds: dict[str, float] = {
        name: row["seconds"] for name, row in rates.items() if "seconds" in row
    }
    kernels = [
        taken
        for name, taken in seconds.items()
        if name.startswith("attention") and (attention == "float8" or "float8" not in name)
    ]
    if not kernels or any(f"{products}: {name}" not in seconds for name in PRODUCTS):
        return None
    linears = min(
        sum(times * seconds[f"{products}: {name}"] for name, times in counts.items())
        for counts in (SEPARATE, JOINED)
    )
    return steps * (linears + (DOUBLE_BLOCKS + SINGLE_BLOCKS) * min(kernels))
