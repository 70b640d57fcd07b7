"""Set the layers that make tokens of latents and of T5's vectors, and latents of tokens.

Knows what a token keeps where (`layout`); does not know the blocks in between.
"""

import torch
from diffusers import FluxTransformer2DModel
from torch import nn

from .heads import balance
from .layout import (
    ANGLES,
    ASK_COLUMN,
    ASK_ROW,
    BALANCE,
    CONSTANT,
    FIRST,
    MINUS,
    ONCE,
    PARK,
    PLUS,
    SCALE,
    SPREAD,
    TWICE,
    WIDTH,
    X,
    haar,
)


def set_ends(transformer: FluxTransformer2DModel) -> None:
    """Set the layers that make tokens, with their constants, of latents, and latents of tokens."""
    embed, unembed = transformer.x_embedder, transformer.proj_out
    embed.weight[X] = SCALE * haar()
    embed.bias[PLUS], embed.bias[MINUS] = CONSTANT, -CONSTANT
    embed.bias[ASK_ROW] = embed.bias[ASK_COLUMN] = 1
    balance(embed)
    unembed.weight[:, X] = haar().T * SPREAD / SCALE


def set_context(layer: nn.Linear, paddings: torch.Tensor, others: torch.Tensor) -> None:
    """Set the layer that turns T5's vectors into tokens, by least squares.

    A padding's token keeps the padding's number as cosines and sines; every other kind of token is
    marked `PARK`. All keep the constants.

    Args:
        layer: Linear layer, 64 inputs and `WIDTH` outputs.
        paddings: T5's vectors of the numbered paddings, in order: count x 64.
        others: T5's vectors of all other kinds of tokens: count x 64.
    """
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
