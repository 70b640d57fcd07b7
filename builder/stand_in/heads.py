"""Set single attention heads: their queries and keys, and where their results are written.

A query or key is a list of entries; in the product of two, only entries in the same place count.
Knows how a head is built; does not know what the heads are used for (`routes`).
"""

import math
from collections.abc import Sequence

from torch import nn

from .layout import ANGLES, AXES, BALANCE, CONSTANT, HEAD, KERNEL, PLUS, REFERENCE, WIDTH, Part

Place = tuple[int, int]
"""A place in a head: (rotary axis, pair of entries)."""
Entries = list[tuple[int, float]]
"""A query or key: (place in the head, value) of each entry that is not zero."""


def at(place: Place) -> int:
    """Return the index in a head of a pair's first entry."""
    axis, pair = place
    return 2 * pair + (0, AXES[0], AXES[0] + AXES[1])[axis]


def peak(axis: int, weight: float, by: float = 0.0) -> Entries:
    """Return a query or key that matches its like best `by` tokens further along the axis."""
    entries: Entries = []
    for pair, (angle, share) in enumerate(zip(ANGLES, KERNEL, strict=True)):
        place, size = at((axis, pair)), weight * math.sqrt(share)
        entries += [(place, size * math.cos(by * angle)), (place + 1, size * math.sin(by * angle))]
    return entries


def write(layer: nn.Linear, head: int, slot: int, entries: Entries, scale: float = 1.0) -> None:
    """Add a query or key to a head's, multiplied by what the token keeps in `slot`."""
    for place, value in entries:
        layer.weight[head * HEAD + place, slot] += scale * value


def write_code(layer: nn.Linear, head: int, slots: Sequence[int], axis: int, sign: float) -> None:
    """Add the kernel, rotated by the angles whose cosines and sines the token keeps in `slots`."""
    for pair, share in enumerate(KERNEL):
        place = head * HEAD + at((axis, pair))
        layer.weight[place, slots[2 * pair]] += math.sqrt(share)
        layer.weight[place + 1, slots[2 * pair + 1]] += sign * math.sqrt(share)


def sharpness(attention: Part, peak: float) -> None:
    """Scale attention so that the logit of a query equal to its key is `peak`."""
    for norm in ("norm_q", "norm_k", "norm_added_q", "norm_added_k"):
        getattr(attention, norm).weight.fill_(math.sqrt(peak / math.sqrt(HEAD)))


def by_kind(layer: nn.Linear, head: int, target: Entries, reference: Entries) -> None:
    """Add one query or key for the target's tokens and another for the reference's."""
    write(layer, head, PLUS, target, 1 / CONSTANT)
    write(layer, head, REFERENCE, target, -1)
    write(layer, head, REFERENCE, reference)


def route(out: nn.Linear, head: int, slots: Sequence[int], first: int = 0) -> None:
    """Add a head's result to the token's `slots`, from the head's entry `first` on."""
    for place, slot in enumerate(slots, head * HEAD + first):
        out.weight[slot, place] = 1


def balance(layer: nn.Linear) -> None:
    """Set a layer's outputs in `BALANCE` so that all outputs together have a mean of zero."""
    layer.weight[BALANCE] = -layer.weight.sum(0) / len(BALANCE)
    layer.bias[BALANCE] = -layer.bias.sum() / len(BALANCE)


def open_gate(block: Part) -> None:
    """Let all of a block's attention through to the image's tokens."""
    block.norm1.linear.bias[2 * WIDTH : 3 * WIDTH] = 1
