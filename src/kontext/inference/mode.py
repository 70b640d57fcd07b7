"""Chooses the most accurate plan of a mode that fits the GPU.

    exact    bfloat16; every step computed; differs from plain diffusers by rounding only
    fast     the blocks' matrix products in 8 bits; every step computed
    turbo    `fast`, with about half of the steps predicted from earlier ones; only on request

`auto` is the fastest mode whose images stay close to those of `exact`: `fast` where the GPU
computes float8, else `exact`, else (too little memory) `fast` with quantised weights.

Weights are never offloaded to the CPU. Where memory is short, more layers are quantised, the least
harmful first; a GPU on which even that does not fit is refused. Pure arithmetic, no torch.
"""

from dataclasses import dataclass, replace
from typing import get_args

from kontext.contract.size import DEFAULT_AREAS
from kontext.errors import BootError
from kontext.inference.memory import (
    BYTES_PER_PIXEL,
    RESERVED_BYTES,
    WORKING_BYTES,
    weight_bytes,
)
from kontext.inference.plan import EXACT, Attention, Plan, Precision
from kontext.settings import Mode, ModeSetting

_MIN_BFLOAT16 = (8, 0)
_MIN_FLOAT8 = (8, 9)
"""The first compute capabilities with bfloat16 and with float8 arithmetic."""
_HOPPER = 9
"""The major compute capability with attention kernels that beat FlashAttention 2, which torch uses
by default: version 3, and cuDNN's. On newer GPUs cuDNN's was published as faster and as slower."""


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU.

    Attributes:
        name: The name that CUDA reports.
        memory: The memory in bytes, as torch reports it.
        capability: The compute capability, major and minor.
        has_flash_attention_3: Whether FlashAttention 3 is installed.
    """

    name: str
    memory: int
    capability: tuple[int, int]
    has_flash_attention_3: bool = False


def choose(setting: ModeSetting, card: Card, max_pixels: float = DEFAULT_AREAS.largest) -> Plan:
    """Return the most accurate plan of the mode that fits `card`.

    Args:
        setting: The mode that the deployer asked for.
        card: The GPU.
        max_pixels: The area of the largest image that will be generated.

    Raises:
        BootError: The mode does not fit; the sentence names the modes that do.
    """
    for mode in _auto(card) if setting == "auto" else (setting,):
        if plan := _best_plan(mode, card):
            # Tiles are used where a side is longer than 1024 pixels, and blended where they meet.
            return replace(plan, tiled=_free_bytes(plan, card) < BYTES_PER_PIXEL * max_pixels)
    raise BootError(
        f"{card.name} with {card.memory / 1e9:.0f} GB of memory cannot hold MODE={setting}; "
        f"modes that it can hold: {', '.join(supported_modes(card)) or 'none'}"
    )


def supported_modes(card: Card) -> list[Mode]:
    """Return the modes that fit `card`."""
    return [mode for mode in get_args(Mode) if _best_plan(mode, card)]


def _auto(card: Card) -> tuple[Mode, ...]:
    return ("fast",) if card.capability >= _MIN_FLOAT8 else ("exact", "fast")


def _best_plan(mode: Mode, card: Card) -> Plan | None:
    if card.capability < _MIN_BFLOAT16:
        return None
    return next((plan for plan in _plans(mode, card) if _fits(plan, card)), None)


def _plans(mode: Mode, card: Card) -> tuple[Plan, ...]:
    """Return the mode's plans, the most accurate first."""
    exact = replace(EXACT, attention=_attention(card))
    if mode == "exact":
        return (exact,)
    streamed = not _fits(exact, card)
    quick = replace(
        exact,
        mode=mode,
        transformer=_block_precision(card, streamed),
        step_cache=mode == "turbo",
        streamed=streamed,
    )
    smaller = replace(quick, text_encoder="int8 weights")
    smallest = replace(smaller, modulation="int8 weights")
    return quick, smaller, smallest


def _attention(card: Card) -> Attention:
    if card.capability[0] != _HOPPER:
        return "torch"
    return "flash 3" if card.has_flash_attention_3 else "cudnn"


def _block_precision(card: Card, streamed: bool) -> Precision:
    """Return the precision of the blocks' linears in a mode faster than `exact`.

    8-bit integers represent outliers among the activations worse than float8 does. So on a GPU
    without float8, activations are quantised only where `exact` fits too and the deployer has
    chosen speed; where nothing else fits, only the weights are.
    """
    if card.capability >= _MIN_FLOAT8:
        return "float8"
    return "int8 weights" if streamed else "int8"


def _fits(plan: Plan, card: Card) -> bool:
    return _free_bytes(plan, card) >= WORKING_BYTES


def _free_bytes(plan: Plan, card: Card) -> float:
    """Return the memory that is left for an edit."""
    return card.memory - RESERVED_BYTES - weight_bytes(plan)
