"""Set the first block of the transformer, in which tokens learn where they are.

The target's tokens read their column and row off T5's numbered paddings. The reference's tokens
learn that they are the reference's, and the mean of their neighbours. Knows neither words nor
pixels.
"""

import math

from .heads import Entries, at, balance, open_gate, peak, route, sharpness, write, write_code
from .layout import (
    CONSTANT,
    FIRST,
    HEAD,
    KERNEL,
    LAST_COLUMN,
    LAST_ROW,
    LEFT,
    NEAR,
    OFFER_COLUMN,
    OFFER_ROW,
    ONCE,
    PARK,
    PLUS,
    REFERENCE,
    SEEN,
    SPREAD,
    TOP,
    TWICE,
    TWICE_COLUMN,
    TWICE_ROW,
    Part,
)

_TURNED, _SINK = (0, 0), (0, 3)
_UNUSED_Q, _UNUSED_K = (1, 12), (2, 13)
"""Places in a head: (rotary axis, pair). Those of axis 0 do not rotate from token to token."""
_APART = -(math.pi / 2 + 0.5)
"""Angle at which the first two cosines of target and reference differ most."""
_TOLD = [*TWICE, *ONCE, FIRST, PARK, PARK, PARK]
"""What paddings and words tell, by the place in the head that carries it."""
_SHARPNESS, _PEAK = 150.0, 0.5
"""The peak logit, and the share of a query that asks for places."""
_BELL = (1.47, 1.92, 1.71, 2.07, 1.01, 2.32)
"""Attention logits of the rotary frequencies: a token sees the next ones 0.36 as much as itself,
those two off 0.035, and others less than 0.005 (found by linear programming)."""


def set_first_block(block: Part) -> None:
    """Set the attention of the first block."""
    attention = block.attn
    sharpness(attention, _SHARPNESS)
    _see_rows(attention)
    _see_columns_and_neighbours(attention)
    for head in (0, 1):
        for place, slot in enumerate(_TOLD):
            attention.add_v_proj.weight[head * HEAD + place, slot] = SPREAD
    for place, slot in enumerate(SEEN, HEAD + len(_TOLD)):
        attention.to_v.weight[place, slot] = SPREAD
    out = attention.to_out[0]
    route(out, 0, [*TWICE_ROW, *LAST_ROW, TOP, REFERENCE, OFFER_ROW, OFFER_COLUMN])
    route(out, 1, [*TWICE_COLUMN, *LAST_COLUMN, LEFT])
    route(out, 1, NEAR, first=len(_TOLD))
    balance(out)
    open_gate(block)


def _see_rows(attention: Part) -> None:
    """Set the first head.

    A target token sees the padding with its row's number, a reference token sees a word.
    """
    write(attention.to_q, 0, PLUS, [*peak(1, 0.4), (at(_SINK), 0.45), *_turned(0.8, _APART)])
    write(attention.to_k, 0, PLUS, [(at(_UNUSED_K), 1)])
    write_code(attention.add_k_proj, 0, ONCE, 1, 1)
    write(attention.add_k_proj, 0, PARK, [*_turned(0.75, 0), (at(_SINK), 0.66)])


def _see_columns_and_neighbours(attention: Part) -> None:
    """Set the second head.

    A target token sees the padding with its column's number, reference tokens see each other.
    Paddings are rotated towards the target, so that they attract the target's tokens more, and the
    reference's less, than the image's tokens do.
    """
    query = [*peak(1, _PEAK), *peak(2, _PEAK), (at(_UNUSED_Q), 0.5), *_turned(0.5, _APART)]
    write(attention.to_q, 1, PLUS, query)
    key = [*_bell(1), *_bell(2), *_turned(0.6, _APART - 0.57)]  # at a right angle to the other kind
    write(attention.to_k, 1, PLUS, [*key, (at(_UNUSED_K), math.sqrt(1 - 0.6**2 - 2 * 0.2**2))])
    write_code(attention.add_k_proj, 1, ONCE, 2, 1)
    write(attention.add_k_proj, 1, PLUS, _turned(0.75, math.pi), 1 / CONSTANT)


def _turned(weight: float, angle: float) -> Entries:
    place = at(_TURNED)
    return [(place, weight * math.cos(angle)), (place + 1, weight * math.sin(angle))]


def _bell(axis: int) -> Entries:
    """Return the key with which a query of `_PEAK` has the logits `_BELL`."""
    return [
        (at((axis, pair)), logit / (_SHARPNESS * _PEAK * math.sqrt(share)))
        for pair, (logit, share) in enumerate(zip(_BELL, KERNEL, strict=True))
    ]
