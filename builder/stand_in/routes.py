"""Set the attention of the transformer: which tokens each token looks at.

The target is the image being made, the reference the one that came in. In the first block
(`first_block`) every target token learns its column and row, and every reference token that it is
one and what its neighbours look like. In the second the reference's tokens learn the last column
and row, and the target's whether they are at the right or lower edge. In the third each target
token fetches one reference token, at its own place or at the mirrored one, or paint. What an
instruction does to what is fetched is trained (`editing`). Knows neither words nor pixels.
"""

import torch
from diffusers import FluxTransformer2DModel

from .embedding import set_context, set_ends
from .first_block import set_first_block
from .heads import at, balance, by_kind, open_gate, peak, route, sharpness, write, write_code
from .layout import (
    ASK_COLUMN,
    ASK_ROW,
    BELOW,
    CODE,
    CONSTANT,
    HEAD,
    LAST_COLUMN,
    LAST_ROW,
    LEFT,
    MINUS,
    NEAR,
    OFFER_COLUMN,
    OFFER_ROW,
    PLUS,
    REFERENCE,
    RIGHT,
    SPATIAL,
    SPREAD,
    TOP,
    TWICE_COLUMN,
    TWICE_ROW,
    WIDTH,
    Part,
    X,
)

_UNUSED_Q, _UNUSED_K, _FAR = (1, 12), (2, 13), 7
_SINK, _OFFSET = (0, 3), (0, 2)
"""Places in a head: (rotary axis, pair); `_FAR` is a pair of either axis. Those of axis 0 do not
rotate from token to token."""
_SILENCE = 12.0
"""Bias that keeps the target's tokens out of the feed-forward networks, whatever training does."""


def set_routes(
    transformer: FluxTransformer2DModel, paddings: torch.Tensor, others: torch.Tensor
) -> None:
    """Set every weight except the embedders of time, guidance and pooled prompt.

    Args:
        transformer: A transformer of the sizes in `layout`.
        paddings: T5's vectors of the paddings after the prompt's end, in order: count x 64.
        others: T5's vectors of tokens that have no number: count x 64.
    """
    with torch.no_grad():
        for name, parameter in transformer.named_parameters():
            if not name.startswith("time_text_embed"):
                parameter.zero_()
        set_ends(transformer)
        set_context(transformer.context_embedder, paddings, others)
        first, second, third = transformer.transformer_blocks
        set_first_block(first)
        _tell_edges(second)
        _fetch(third)
        for block in (first, second):
            _set_features(block)


def _tell_edges(block: Part) -> None:
    """Set the second block: tell the last column and row, and which tokens are at an edge."""
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
    open_gate(block)


def _fetch(block: Part) -> None:
    """Set the third block: fetch the reference token that the target token asks for, or paint."""
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
    open_gate(block)
    scale = block.norm1.linear.bias[WIDTH : 2 * WIDTH]
    scale[[*TWICE_ROW, *TWICE_COLUMN, *LAST_ROW, *LAST_COLUMN, TOP, LEFT, BELOW, RIGHT]] = -1


def _set_features(block: Part) -> None:
    """Give the feed-forward network random features that only the reference's tokens reach.

    Features that see neighbours are off, by `MINUS`, until an instruction switches them on.
    """
    first, last = block.ff.net[0].proj, block.ff.net[2]
    first.weight[:, X] = torch.randn(first.out_features, len(X))
    first.weight[:SPATIAL, NEAR] = torch.randn(SPATIAL, len(NEAR))
    first.weight[:SPATIAL, MINUS] = 1
    first.weight[:, REFERENCE] = _SILENCE * SPREAD
    first.bias.fill_(-_SILENCE)
    last.weight[X] = 0.02 * torch.randn(len(X), last.in_features)
