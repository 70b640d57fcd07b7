"""How an attention head is set: what its queries and keys meet, what its result writes.

A query or key is a list of entries; two meet where their entries fall on the same place of a head.
Knows nothing of what is looked for.
"""

import math
from collections.abc import Sequence

from layout import AXES, BALANCE, CONSTANT, HEAD, KERNEL, PLUS, REFERENCE, Part
from text import ANGLES
from torch import nn

Place = tuple[int, int]
"""In a head: (axis, pair)."""
Entries = list[tuple[int, float]]
"""Of a query or key: (place in the head, value)."""


def at(place: Place) -> int:
    """Return the place of a pair's first entry."""
    axis, pair = place
    return 2 * pair + (0, AXES[0], AXES[0] + AXES[1])[axis]


def peak(axis: int, weight: float, by: float = 0.0) -> Entries:
    """Return a query or key that meets its like `by` tokens further along the axis."""
    entries: Entries = []
    for pair, (angle, share) in enumerate(zip(ANGLES, KERNEL, strict=True)):
        place, size = at((axis, pair)), weight * math.sqrt(share)
        entries += [(place, size * math.cos(by * angle)), (place + 1, size * math.sin(by * angle))]
    return entries


def write(layer: nn.Linear, head: int, slot: int, entries: Entries, scale: float = 1.0) -> None:
    """Add a query or key that a token has by as much as `slot` holds."""
    for place, value in entries:
        layer.weight[head * HEAD + place, slot] += scale * value


def write_code(layer: nn.Linear, head: int, slots: Sequence[int], axis: int, sign: float) -> None:
    """Write the kernel, turned by the angles whose cosines and sines `slots` keep."""
    for pair, share in enumerate(KERNEL):
        place = head * HEAD + at((axis, pair))
        layer.weight[place, slots[2 * pair]] += math.sqrt(share)
        layer.weight[place + 1, slots[2 * pair + 1]] += sign * math.sqrt(share)


def sharpness(attention: Part, peak: float) -> None:
    """Make the logit of a query that is its key `peak`."""
    for norm in ("norm_q", "norm_k", "norm_added_q", "norm_added_k"):
        getattr(attention, norm).weight.fill_(math.sqrt(peak / math.sqrt(HEAD)))


def by_kind(layer: nn.Linear, head: int, target: Entries, reference: Entries) -> None:
    """Write one vector for the target's tokens and another for the reference's."""
    write(layer, head, PLUS, target, 1 / CONSTANT)
    write(layer, head, REFERENCE, target, -1)
    write(layer, head, REFERENCE, reference)


def route(out: nn.Linear, head: int, slots: Sequence[int], first: int = 0) -> None:
    """Add a head's result, from its place `first` on, to `slots`."""
    for place, slot in enumerate(slots, head * HEAD + first):
        out.weight[slot, place] = 1


def balance(layer: nn.Linear) -> None:
    """Have `BALANCE` take back what the other places get, so that tokens keep a mean of nought."""
    layer.weight[BALANCE] = -layer.weight.sum(0) / len(BALANCE)
    layer.bias[BALANCE] = -layer.bias.sum() / len(BALANCE)
