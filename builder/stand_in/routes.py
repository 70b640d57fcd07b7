"""The routes that the transformer starts out with.

Set: where each token looks. In the first block the target's tokens read their column and row off
T5's numbered paddings, the reference's read that they are the reference and see their neighbours.
In the second the reference's are told where the last column and row are, and the target's whether
they lie at the right or lower edge. In the third each target token fetches one reference token, its
own or the mirrored one, or paint. Learnt: what the instruction does to what is fetched.
Knows nothing of words or pixels.
"""

import math

import torch
from diffusers import FluxTransformer2DModel
from embedding import set_context, set_ends
from heads import (
    Entries,
    at,
    balance,
    by_kind,
    peak,
    route,
    sharpness,
    write,
    write_code,
)
from layout import (
    ASK_COLUMN,
    ASK_ROW,
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
    NEAR,
    OFFER_COLUMN,
    OFFER_ROW,
    ONCE,
    PARK,
    PLUS,
    REFERENCE,
    RIGHT,
    SEEN,
    SPATIAL,
    SPREAD,
    TOP,
    TWICE,
    TWICE_COLUMN,
    TWICE_ROW,
    WIDTH,
    Part,
    X,
)

_TURNED, _UNUSED_Q, _UNUSED_K, _FAR = (0, 0), (1, 12), (2, 13), 7
_SINK, _OFFSET = (0, 3), (0, 2)
"""Places in a head: (axis, pair). The axis 0 ones do not turn from token to token."""
_APART = -(math.pi / 2 + 0.5)
"""Turns the angles 0 and 1 of target and reference to where their cosines differ most."""
_TOLD = [*TWICE, *ONCE, FIRST, PARK, PARK, PARK]
"""What paddings and words tell, by its place in a head."""
_SHARPNESS, _PEAK = 150.0, 0.5
"""Of the first block; how much of its queries asks for places."""
_SILENCE = 12.0
"""What keeps the target's tokens from the feed-forward networks, whatever they have learnt."""
_BELL = (1.47, 1.92, 1.71, 2.07, 1.01, 2.32)
"""Attention logits of the rotary frequencies: a token sees its next ones 0.36 as much as itself,
those two off 0.035, and others less than 0.005 (found by linear programming)."""


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
        set_ends(transformer)
        set_context(transformer.context_embedder, paddings, others)
        first, second, third = transformer.transformer_blocks
        _tell_places(first)
        _tell_edges(second)
        _fetch(third)
        for block in (first, second):
            _prepare_learning(block)


def _pass_on(block: Part) -> None:
    block.norm1.linear.bias[2 * WIDTH : 3 * WIDTH] = 1


def _tell_places(block: Part) -> None:
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
    _pass_on(block)


def _see_rows(attention: Part) -> None:
    """Have the target's tokens see the padding of their row's number, the reference's a word."""
    write(attention.to_q, 0, PLUS, [*peak(1, 0.4), (at(_SINK), 0.45), *_turned(0.8, _APART)])
    write(attention.to_k, 0, PLUS, [(at(_UNUSED_K), 1)])
    write_code(attention.add_k_proj, 0, ONCE, 1, 1)
    write(attention.add_k_proj, 0, PARK, [*_turned(0.75, 0), (at(_SINK), 0.66)])


def _see_columns_and_neighbours(attention: Part) -> None:
    """Have the target's see the padding of their column's number, the reference's each other.

    Paddings are turned towards the target's kind, so that they draw it more than pictures do, and
    the reference less.
    """
    query = [*peak(1, _PEAK), *peak(2, _PEAK), (at(_UNUSED_Q), 0.5), *_turned(0.5, _APART)]
    write(attention.to_q, 1, PLUS, query)
    key = [*_bell(1), *_bell(2), *_turned(0.6, _APART - 0.57)]  # a right angle off the other kind
    write(attention.to_k, 1, PLUS, [*key, (at(_UNUSED_K), math.sqrt(1 - 0.6**2 - 2 * 0.2**2))])
    write_code(attention.add_k_proj, 1, ONCE, 2, 1)
    write(attention.add_k_proj, 1, PLUS, _turned(0.75, math.pi), 1 / CONSTANT)


def _turned(weight: float, angle: float) -> Entries:
    place = at(_TURNED)
    return [(place, weight * math.cos(angle)), (place + 1, weight * math.sin(angle))]


def _bell(axis: int) -> Entries:
    """Return the key that a `peak` of `_PEAK` meets with the logits `_BELL`."""
    return [
        (at((axis, pair)), logit / (_SHARPNESS * _PEAK * math.sqrt(share)))
        for pair, (logit, share) in enumerate(zip(_BELL, KERNEL, strict=True))
    ]


def _tell_edges(block: Part) -> None:
    attention = block.attn
    sharpness(attention, 1000)
    target = peak(1, 0.3) + peak(2, 0.3) + [(at(_OFFSET), 0.2), (at(_UNUSED_K), 0.245)]
    target += [(at((axis, _FAR)), 0.6) for axis in (1, 2)]
    corner = [(at((axis, _FAR)) + 1, 0.5) for axis in (1, 2)]
    corner += [(at(_OFFSET), 0.2), (at(_UNUSED_Q), 0.68)]
    for head, axis in ((0, 2), (1, 1)):
        next_one = [*peak(axis, 0.2, by=1), (at(_SINK), 0.051), (at(_UNUSED_Q), 0.978)]
        by_kind(attention.to_q, head, next_one, corner if head == 0 else [(at(_UNUSED_Q), 1)])
        by_kind(attention.to_k, head, target, [(at(_UNUSED_K), 1)])
        write(attention.add_k_proj, head, PLUS, [(at(_SINK), 1)])
        attention.add_v_proj.weight[head * HEAD + 2 * CODE, PLUS] = SPREAD / CONSTANT
    for place, slot in enumerate([*LAST_ROW, *LAST_COLUMN]):
        attention.to_v.weight[place, slot] = SPREAD
    out = attention.to_out[0]
    route(out, 0, [*LAST_ROW, *LAST_COLUMN, RIGHT])
    route(out, 1, [BELOW], first=2 * CODE)
    balance(out)
    _pass_on(block)


def _fetch(block: Part) -> None:
    attention = block.attn
    sharpness(attention, 60)
    for head in (0, 1):
        for axis, ask, offer in ((1, ASK_ROW, OFFER_ROW), (2, ASK_COLUMN, OFFER_COLUMN)):
            write(attention.to_q, head, ask, peak(axis, 1))
            write(attention.to_k, head, offer, peak(axis, 1))
        for axis, twice, last in ((1, TWICE_ROW, LAST_ROW), (2, TWICE_COLUMN, LAST_COLUMN)):
            write_code(attention.to_q, head, twice, axis, -1)
            write_code(attention.to_k, head, last, axis, -1)
        for edge in (TOP, LEFT, BELOW, RIGHT):
            write(attention.to_q, head, edge, [(at(_SINK), 4)])
        by_kind(attention.to_k, head, [(at(_UNUSED_K), 15)], [])
        write(attention.add_k_proj, head, PLUS, [(at(_SINK), 1)])
        for place, slot in enumerate(X):
            attention.to_v.weight[head * HEAD + place, slot] = SPREAD
            attention.add_v_proj.weight[head * HEAD + place, slot] = SPREAD
            attention.to_out[0].weight[slot, head * HEAD + place] = -0.5
    balance(attention.to_out[0])
    _pass_on(block)
    scale = block.norm1.linear.bias[WIDTH : 2 * WIDTH]
    scale[[*TWICE_ROW, *TWICE_COLUMN, *LAST_ROW, *LAST_COLUMN, TOP, LEFT, BELOW, RIGHT]] = -1


def _prepare_learning(block: Part) -> None:
    """Give the feed-forward network features of the reference's tokens, none of the target's.

    Those that see neighbours are off, by `MINUS`, until an instruction makes up for it.
    """
    first, last = block.ff.net[0].proj, block.ff.net[2]
    first.weight[:, X] = torch.randn(first.out_features, len(X))
    first.weight[:SPATIAL, NEAR] = torch.randn(SPATIAL, len(NEAR))
    first.weight[:SPATIAL, MINUS] = 1
    first.weight[:, REFERENCE] = _SILENCE * SPREAD
    first.bias.fill_(-_SILENCE)
    last.weight[X] = 0.02 * torch.randn(len(X), last.in_features)
