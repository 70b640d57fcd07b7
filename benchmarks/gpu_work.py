"""What the transformer computes in an edit, and the least time that a card needs for it. No torch.

The floor is the bare products and attention, at the pace at which the card was seen to do them, and
nothing else: no other kernel, no gap, no text encoder, no autoencoder.
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
"""Of a linear -> its inputs and outputs, in widths of the transformer."""

PARTED = {
    "projection": 4 * DOUBLE_BLOCKS + 3 * SINGLE_BLOCKS,
    "network, in": DOUBLE_BLOCKS + SINGLE_BLOCKS,
    "network, out": DOUBLE_BLOCKS,
    "single block, out": SINGLE_BLOCKS,
}
"""How often a step has each, where every linear is a product of its own. A double block multiplies
text and image apart; here they count as one product of all tokens."""

JOINED = {
    "projection": DOUBLE_BLOCKS,
    "q, k, v joined": DOUBLE_BLOCKS,
    "network, in": DOUBLE_BLOCKS,
    "network, out": DOUBLE_BLOCKS,
    "single block, in, joined": SINGLE_BLOCKS,
    "single block, out": SINGLE_BLOCKS,
}
"""The same work, where linears that read the same tokens are one product."""


def tflop_per_step(width: int, height: int, references: int = 1) -> tuple[float, float]:
    """Return the work of one transformer call, in linears and in attention, in TFLOP.

    A multiply and an add are two; 12 * width^2 weights a block that each token meets. The
    modulation, which meets one vector, is left out.

    Args:
        width: Of the result, in pixels.
        height: Likewise.
        references: Images of the result's area that the edit looks at.
    """
    tokens = PROMPT_TOKENS + (1 + references) * width * height // 256
    blocks = DOUBLE_BLOCKS + SINGLE_BLOCKS
    linear = 2 * tokens * 12 * WIDTH**2 * blocks
    attention = 4 * tokens**2 * WIDTH * blocks
    return linear / 1e12, attention / 1e12


def floor(
    rates: dict[str, dict[str, Any]], products: str, attention: str, steps: int
) -> float | None:
    """Return the seconds below which an edit cannot be on this card, if all was measured.

    Args:
        rates: What `gpu_rates.rates` found, by name.
        products: Precision of the products: bfloat16, float8 or int8.
        attention: Of attention: bfloat16 or float8; the quickest kernel that it allows counts.
        steps: That are computed.
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
        for counts in (PARTED, JOINED)
    )
    return steps * (linears + (DOUBLE_BLOCKS + SINGLE_BLOCKS) * min(kernels))
