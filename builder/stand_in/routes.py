"""The routes that the transformer starts out with.

Set: where each token looks. The first block tells the target's tokens their column and row (from
T5's numbered paddings) and the reference's that they are the reference. The second tells the
reference's where the last column and row are, and the target's whether they lie at the right or
lower edge. In the third each target token fetches one reference token, its own or the mirrored
one, or paint. Learnt: what the instruction does to what is fetched.
Knows nothing of words or pixels.
"""

import math
from collections.abc import Sequence

import torch
from diffusers import FluxTransformer2DModel
from layout import (
    ASK_COLUMN,
    ASK_ROW,
    AXES,
    BALANCE,
    BELOW,
    CODE,
    CONSTANT,
    FIRST,
    HEAD,
    KERNEL,
    LAST_COLUMN,
    LAST_ROW,
    LEFT,
    MINUS,
    OFFER_COLUMN,
    OFFER_ROW,
    ONCE,
    PARK,
    PLUS,
    REFERENCE,
    RIGHT,
    SCALE,
    SPREAD,
    TOP,
    TWICE,
    TWICE_COLUMN,
    TWICE_ROW,
    WIDTH,
    Part,
    X,
    haar,
)
from text import ANGLES
from torch import nn

_TURNED, _UNUSED_Q, _UNUSED_K, _FAR = (0, 0), (1, 12), (2, 13), 7
_SINK, _OFFSET = (0, 3), (0, 2)
"""Places in a head: (axis, pair). The axis 0 ones do not turn from token to token."""

Entries = list[tuple[int, float]]


def set_routes(
    transformer: FluxTransformer2DModel, paddings: torch.Tensor, others: torch.Tensor
) -> None:
    """Set every weight but the embedders of time, guidance and pooled prompt.

    Args:
        transformer: As `network` made it.
        paddings: T5's vectors of the paddings after the prompt's end, in order.
        others: T5's vectors of tokens that number nothing.
    """
    with torch.no_grad():
        for name, parameter in transformer.named_parameters():
            if not name.startswith("time_text_embed"):
                parameter.zero_()
        _set_ends(transformer)
        _set_context(transformer.context_embedder, paddings, others)
        first, second, third = transformer.transformer_blocks
        _tell_places(first)
        _tell_edges(second)
        _fetch(third)
        for block in (first, second):
            _prepare_learning(block)


def _set_ends(transformer: FluxTransformer2DModel) -> None:
    embed, unembed = transformer.x_embedder, transformer.proj_out
    embed.weight[X] = SCALE * haar()
    embed.bias[PLUS], embed.bias[MINUS] = CONSTANT, -CONSTANT
    embed.bias[ASK_ROW] = embed.bias[ASK_COLUMN] = 1
    _balance(embed)
    unembed.weight[:, X] = haar().T * SPREAD / SCALE


def _balance(layer: nn.Linear) -> None:
    layer.weight[BALANCE] = -layer.weight.sum(0) / len(BALANCE)
    layer.bias[BALANCE] = -layer.bias.sum() / len(BALANCE)


def _set_context(layer: nn.Linear, paddings: torch.Tensor, others: torch.Tensor) -> None:
    places = torch.arange(len(paddings))
    wanted = torch.zeros(len(paddings) + len(others), WIDTH)
    wanted[:, PLUS], wanted[:, MINUS] = CONSTANT, -CONSTANT
    for index, angle in enumerate(ANGLES):
        for slots, factor in ((ONCE, 1), (TWICE, 2)):
            wanted[: len(places), slots[2 * index]] = torch.cos(factor * angle * places)
            wanted[: len(places), slots[2 * index + 1]] = torch.sin(factor * angle * places)
    wanted[0, FIRST] = 1
    wanted[len(places) :, PARK] = 1
    wanted[:, BALANCE] = -wanted.sum(1, keepdim=True) / len(BALANCE)
    inputs = torch.cat([paddings, others]).double()
    inputs = torch.cat([inputs, torch.ones(len(inputs), 1)], 1)
    square = inputs.T @ inputs + 1e-6 * torch.eye(inputs.shape[1])
    solved = torch.linalg.solve(square, inputs.T @ wanted.double()).float()
    layer.weight.copy_(solved[:-1].T)
    layer.bias.copy_(solved[-1])


# --- queries and keys ---------------------------------------------------------------------------


def _at(place: tuple[int, int]) -> int:
    axis, pair = place
    return 2 * pair + (0, AXES[0], AXES[0] + AXES[1])[axis]


def _peak(axis: int, weight: float, by: float = 0.0) -> Entries:
    """Return a query or key that meets its like `by` tokens further along the axis."""
    entries: Entries = []
    for pair, (angle, share) in enumerate(zip(ANGLES, KERNEL, strict=True)):
        place, size = _at((axis, pair)), weight * math.sqrt(share)
        entries += [(place, size * math.cos(by * angle)), (place + 1, size * math.sin(by * angle))]
    return entries


def _write(layer: nn.Linear, head: int, slot: int, entries: Entries, scale: float = 1.0) -> None:
    for place, value in entries:
        layer.weight[head * HEAD + place, slot] += scale * value


def _write_code(layer: nn.Linear, head: int, slots: Sequence[int], axis: int, sign: float) -> None:
    """Write the kernel, turned by the angles whose cosines and sines `slots` keep."""
    for pair, share in enumerate(KERNEL):
        place = head * HEAD + _at((axis, pair))
        layer.weight[place, slots[2 * pair]] += math.sqrt(share)
        layer.weight[place + 1, slots[2 * pair + 1]] += sign * math.sqrt(share)


def _sharpness(attention: Part, peak: float) -> None:
    """Make the logit of a query that is its key `peak`."""
    for norm in ("norm_q", "norm_k", "norm_added_q", "norm_added_k"):
        getattr(attention, norm).weight.fill_(math.sqrt(peak / math.sqrt(HEAD)))


def _pass_on(block: Part) -> None:
    block.norm1.linear.bias[2 * WIDTH : 3 * WIDTH] = 1


def _tell_places(block: Part) -> None:
    attention = block.attn
    _sharpness(attention, 100)
    turn = -(math.pi / 2 + 0.5)  # of the angles 0 and 1 of target and reference, the farthest apart
    for head, axis in ((0, 1), (1, 2)):
        query = [*_peak(axis, 0.4), (_at(_SINK), 0.45)]
        query += [
            (_at(_TURNED), 0.8 * math.cos(turn)),
            (_at(_TURNED) + 1, 0.8 * math.sin(turn)),
        ]
        _write(attention.to_q, head, PLUS, query)
        _write(attention.to_k, head, PLUS, [(_at(_UNUSED_K), 1)])
        _write_code(attention.add_k_proj, head, ONCE, axis, 1)
        _write(attention.add_k_proj, head, PARK, [(_at(_TURNED), 0.75), (_at(_SINK), 0.66)])
        told = [*TWICE, *ONCE, FIRST, PARK, PARK, PARK]
        for place, slot in enumerate(told):
            attention.add_v_proj.weight[head * HEAD + place, slot] = SPREAD
    out = attention.to_out[0]
    _route(out, 0, [*TWICE_ROW, *LAST_ROW, TOP, REFERENCE, OFFER_ROW, OFFER_COLUMN])
    _route(out, 1, [*TWICE_COLUMN, *LAST_COLUMN, LEFT])
    _balance(out)
    _pass_on(block)


def _route(out: nn.Linear, head: int, slots: Sequence[int], first: int = 0) -> None:
    for place, slot in enumerate(slots, head * HEAD + first):
        out.weight[slot, place] = 1


def _tell_edges(block: Part) -> None:
    attention = block.attn
    _sharpness(attention, 1000)
    target = _peak(1, 0.3) + _peak(2, 0.3) + [(_at(_OFFSET), 0.2), (_at(_UNUSED_K), 0.245)]
    target += [(_at((axis, _FAR)), 0.6) for axis in (1, 2)]
    corner = [(_at((axis, _FAR)) + 1, 0.5) for axis in (1, 2)]
    corner += [(_at(_OFFSET), 0.2), (_at(_UNUSED_Q), 0.68)]
    for head, axis in ((0, 2), (1, 1)):
        next_one = [*_peak(axis, 0.2, by=1), (_at(_SINK), 0.051), (_at(_UNUSED_Q), 0.978)]
        _by_kind(attention.to_q, head, next_one, corner if head == 0 else [(_at(_UNUSED_Q), 1)])
        _by_kind(attention.to_k, head, target, [(_at(_UNUSED_K), 1)])
        _write(attention.add_k_proj, head, PLUS, [(_at(_SINK), 1)])
        attention.add_v_proj.weight[head * HEAD + 2 * CODE, PLUS] = SPREAD / CONSTANT
    for place, slot in enumerate([*LAST_ROW, *LAST_COLUMN]):
        attention.to_v.weight[place, slot] = SPREAD
    out = attention.to_out[0]
    _route(out, 0, [*LAST_ROW, *LAST_COLUMN, RIGHT])
    _route(out, 1, [BELOW], first=2 * CODE)
    _balance(out)
    _pass_on(block)


def _by_kind(layer: nn.Linear, head: int, target: Entries, reference: Entries) -> None:
    """Write one vector for the target's tokens and another for the reference's."""
    _write(layer, head, PLUS, target, 1 / CONSTANT)
    _write(layer, head, REFERENCE, target, -1)
    _write(layer, head, REFERENCE, reference)


def _fetch(block: Part) -> None:
    attention = block.attn
    _sharpness(attention, 60)
    for head in (0, 1):
        for axis, ask, offer in ((1, ASK_ROW, OFFER_ROW), (2, ASK_COLUMN, OFFER_COLUMN)):
            _write(attention.to_q, head, ask, _peak(axis, 1))
            _write(attention.to_k, head, offer, _peak(axis, 1))
        for axis, twice, last in ((1, TWICE_ROW, LAST_ROW), (2, TWICE_COLUMN, LAST_COLUMN)):
            _write_code(attention.to_q, head, twice, axis, -1)
            _write_code(attention.to_k, head, last, axis, -1)
        for edge in (TOP, LEFT, BELOW, RIGHT):
            _write(attention.to_q, head, edge, [(_at(_SINK), 4)])
        _by_kind(attention.to_k, head, [(_at(_UNUSED_K), 15)], [])
        _write(attention.add_k_proj, head, PLUS, [(_at(_SINK), 1)])
        for place, slot in enumerate(X):
            attention.to_v.weight[head * HEAD + place, slot] = SPREAD
            attention.add_v_proj.weight[head * HEAD + place, slot] = SPREAD
            attention.to_out[0].weight[slot, head * HEAD + place] = -0.5
    _balance(attention.to_out[0])
    _pass_on(block)
    scale = block.norm1.linear.bias[WIDTH : 2 * WIDTH]
    scale[[*TWICE_ROW, *TWICE_COLUMN, *LAST_ROW, *LAST_COLUMN, TOP, LEFT, BELOW, RIGHT]] = -1


def _prepare_learning(block: Part) -> None:
    """Give the feed-forward network features of the reference's tokens, none of the target's."""
    first, last = block.ff.net[0].proj, block.ff.net[2]
    first.weight[:, X] = torch.randn(first.out_features, len(X))
    first.weight[:, REFERENCE] = 4 * SPREAD
    first.bias.fill_(-4)
    last.weight[X] = 0.02 * torch.randn(len(X), last.in_features)
