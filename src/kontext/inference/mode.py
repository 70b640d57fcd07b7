"""Which edit mode runs on which card, in which precisions: pure arithmetic, no torch.

    exact    bfloat16; every step computed; nothing but rounding differs from plain diffusers
    fast     the blocks' matrix products in 8 bits; every step computed
    turbo    `fast`, and about half of the steps predicted from those before; only when asked for

`auto` is the quickest mode whose images stay close to those of `exact`: `fast` where the card
computes float8, else `exact`, else (too little memory) `fast` with quantised weights.

Nothing is ever offloaded. Where memory is short more is quantised, the least harmful first, and
what still does not fit is refused. Memory is planned from parameter counts; what an edit needs
beside the weights is a choice that no card has confirmed.
"""

from dataclasses import dataclass, replace
from typing import Literal, get_args

from kontext.contract.size import DEFAULT_AREAS
from kontext.errors import BootError
from kontext.settings import Mode, ModeSetting

Precision = Literal["bfloat16", "float8", "int8", "float8 weights", "int8 weights"]
"""Of a linear layer. `float8` and `int8` also quantise what enters it, anew at each call, and
multiply in 8 bits; with `... weights` only what is stored is smaller. Scales belong to rows."""

Attention = Literal["torch", "cudnn", "flash 3"]
"""Of a block, in bfloat16: the kernel that torch chooses by itself, cuDNN's, FlashAttention 3."""

Float8Attention = Literal["flash 3 float8"]

BYTES: dict[Precision, int] = {
    "bfloat16": 2,
    "float8": 1,
    "int8": 1,
    "float8 weights": 1,
    "int8 weights": 1,
}

# Parameters of FLUX.1 Kontext [dev] (its published configuration): the transformer has 11.901e9 in
# 19 double and 38 single blocks of width 3072, T5-XXL's encoder 4.762e9, CLIP-L 0.123e9, the VAE
# 0.084e9.
MODULATION = 3.228e9
"""The blocks' adaLN linears: (19 * 2 * 6 + 38 * 3) * 3072 * (3072 + 1)."""
BLOCKS = 11.901e9 - MODULATION - 0.065e9
"""All else in the blocks; 0.065e9 are the embedders and the last projection."""
TEXT_ENCODER = 4.762e9 - 0.132e9
"""T5's linears, without its embedding."""
REST = 0.065e9 + 0.132e9 + 0.123e9 + 0.084e9
"""What always stays in bfloat16."""

REFERENCE_ENCODER = 0.034e9
"""The VAE's encoder, of which a second copy encodes references in float32."""

WORKING_MEMORY = 4e9
"""Bytes for one edit of 1024 * 1024 beside the weights. A choice that no card has confirmed."""
OUTSIDE = 1.5e9
"""Bytes of CUDA itself, the safety checker and gaps between tensors. A choice likewise."""
PIXEL = 4 * 256 * 2
"""Bytes for each pixel of an image that is decoded at once: four tensors of 256 channels in
bfloat16; to encode a reference, four of 128 in float32. A card with less to spare does both in
tiles, where a side is longer than 1024 pixels."""

_BFLOAT16 = (8, 0)
_FLOAT8 = (8, 9)
"""The compute capabilities from which a card computes in them."""
_HOPPER = 9
"""The major compute capability for which there are kernels of attention that beat FlashAttention 2,
which torch takes by itself: version 3, and cuDNN's. On newer cards cuDNN's was published as quicker
and as slower."""


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU: its name, its memory in bytes and its compute capability.

    And whether FlashAttention 3 is installed for it.
    """

    name: str
    memory: int
    capability: tuple[int, int]
    has_flash_attention_3: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """How a mode is carried out on a card.

    Attributes:
        mode: Its name, for provenance.
        transformer: Precision of the blocks' linears.
        modulation: Of their adaLN linears, a quarter of the weights and none of the time: they
            see one vector where the others see thousands, and an error there shifts every token.
        text_encoder: Of T5's linears.
        step_cache: Whether some steps are predicted.
        attention: The kernel of attention, in bfloat16.
        float8_attention: The kernel of all but the outer blocks, if they attend in float8. No
            mode has it yet: the benchmark measures what it gains and costs.
        tiled: Whether large images are encoded and decoded in tiles.
        streamed: Whether the bfloat16 weights do not fit the card, so that each layer must be
            quantised on its way there.
    """

    mode: Mode = "exact"
    transformer: Precision = "bfloat16"
    modulation: Precision = "bfloat16"
    text_encoder: Precision = "bfloat16"
    step_cache: bool = False
    attention: Attention = "torch"
    float8_attention: Float8Attention | None = None
    tiled: bool = False
    streamed: bool = False


EXACT = Plan()


def choose(setting: ModeSetting, card: Card, largest: float = DEFAULT_AREAS.largest) -> Plan:
    """Return the most accurate plan of the mode that `card` can hold.

    Args:
        setting: What the deployer asked for.
        card: The GPU.
        largest: Pixels of the largest image that will be generated.

    Raises:
        BootError: It can hold none; names the modes that it can.
    """
    for mode in _auto(card) if setting == "auto" else (setting,):
        if plan := _fitting(mode, card):
            return replace(plan, tiled=_spare(plan, card) < PIXEL * largest)
    raise BootError(
        f"{card.name} with {card.memory / 1e9:.0f} GB of memory cannot hold MODE={setting}; "
        f"modes that it can hold: {', '.join(holdable(card)) or 'none'}"
    )


def holdable(card: Card) -> list[Mode]:
    """Return the modes that `card` can hold."""
    return [mode for mode in get_args(Mode) if _fitting(mode, card)]


def weights(plan: Plan) -> float:
    """Return the bytes that the weights take."""
    return (
        BLOCKS * BYTES[plan.transformer]
        + MODULATION * BYTES[plan.modulation]
        + TEXT_ENCODER * BYTES[plan.text_encoder]
        + REST * BYTES["bfloat16"]
        + REFERENCE_ENCODER * 4
    )


def peak(plan: Plan) -> float:
    """Return the most bytes that are planned to be allocated during an edit."""
    return weights(plan) + WORKING_MEMORY


def _auto(card: Card) -> tuple[Mode, ...]:
    return ("fast",) if card.capability >= _FLOAT8 else ("exact", "fast")


def _fitting(mode: Mode, card: Card) -> Plan | None:
    if card.capability < _BFLOAT16:
        return None
    return next((plan for plan in _plans(mode, card) if _fits(plan, card)), None)


def _plans(mode: Mode, card: Card) -> tuple[Plan, ...]:
    """Return the mode's plans, the most accurate first."""
    exact = replace(EXACT, attention=_attention(card))
    streamed = not _fits(exact, card)
    quick = replace(
        exact,
        mode=mode,
        transformer=_products(card, streamed),
        step_cache=mode == "turbo",
        streamed=streamed,
    )
    smaller = replace(quick, text_encoder="int8 weights")
    smallest = replace(smaller, modulation="int8 weights")
    return (exact,) if mode == "exact" else (quick, smaller, smallest)


def _attention(card: Card) -> Attention:
    if card.capability[0] != _HOPPER:
        return "torch"
    return "flash 3" if card.has_flash_attention_3 else "cudnn"


def _products(card: Card, streamed: bool) -> Precision:
    """Return the precision of the blocks' linears.

    8-bit integers serve outliers among the activations worse than float8 does. Who asks for speed
    where `exact` fits gets them; a card for which `auto` has nothing else only stores in them.
    """
    if card.capability >= _FLOAT8:
        return "float8"
    return "int8 weights" if streamed else "int8"


def _fits(plan: Plan, card: Card) -> bool:
    return _spare(plan, card) >= WORKING_MEMORY


def _spare(plan: Plan, card: Card) -> float:
    """Return the bytes that are left for an edit."""
    return card.memory - OUTSIDE - weights(plan)
