"""Set the transformer's embedders of time, guidance and instruction, and what they switch.

Each instruction has one unit. It gives `STRENGTH` when the instruction is to be followed in full,
less at less guidance, and zero when the prompt does not ask for it. Knows instructions by their
number only, neither their words nor what they do to pixels.
"""

import math
from collections.abc import Iterable, Sequence

import torch
from diffusers import FluxTransformer2DModel
from torch import nn

from .layout import (
    ASK_COLUMN,
    ASK_ROW,
    BELOW,
    LAST_COLUMN,
    LAST_ROW,
    LEFT,
    MINUS,
    OFFER_COLUMN,
    OFFER_ROW,
    RIGHT,
    SPREAD,
    TOP,
    TWICE_COLUMN,
    TWICE_ROW,
    WIDTH,
    Part,
)

STRENGTH = 8.0
"""Value after SiLU of the unit of an instruction that is followed in full."""
TIME_UNIT = 64
"""The unit that gives 1 / sigma."""
_TIME_STRENGTH = 1.0
_OFF = 16.0
"""How far below zero the unit of an instruction is that the prompt does not ask for."""
_RIDGE = 1e-6
"""Regularisation of the least squares."""


def set_conditioning(
    transformer: FluxTransformer2DModel, instructions: int, hard: Iterable[int]
) -> None:
    """Set the embedders: one unit for 1 / sigma, and one for each instruction times its strength.

    Args:
        transformer: The transformer that `routes.set_routes` has set.
        instructions: Number of instructions, which the pooled vector's first places name.
        hard: Numbers of the instructions that are done wholly or not at all.
    """
    chosen = set(hard)
    soft = [index for index in range(instructions) if index not in chosen]
    with torch.no_grad():
        embedder = transformer.time_text_embed
        for parameter in embedder.parameters():
            parameter.zero_()
        _set_time(embedder.timestep_embedder)
        _set_guidance(embedder.guidance_embedder, instructions, chosen)
        _set_prompt(embedder.text_embedder, instructions, soft)
        out = transformer.norm_out.linear
        out.bias[:WIDTH] = -1
        out.weight[:WIDTH, TIME_UNIT] = 1 / _TIME_STRENGTH


def _set_time(embedder: Part) -> None:
    """Set the embedder of time so that its unit gives 1 / sigma."""
    sigmas = torch.cat([torch.linspace(0.015, 1, 3000), torch.logspace(-1.85, 0, 3000)])
    wanted = _before_silu(_TIME_STRENGTH / sigmas)[:, None]
    _fit(embedder, 1000 * sigmas, wanted, [TIME_UNIT], sigmas.double())


def _set_guidance(embedder: Part, instructions: int, hard: set[int]) -> None:
    """Set the embedder of guidance so that each instruction's unit gives its strength."""
    guidances = torch.linspace(0, 10, 4001)
    curves = torch.stack([strength(guidances), hard_strength(guidances)], 1)
    units = torch.zeros(2, instructions)
    for index in range(instructions):
        units[int(index in hard), index] = 1
    wanted = _before_silu(STRENGTH * curves) @ units
    weights = 1 + 20 * torch.exp(-100 * guidances).double()  # at 0 an edit must do nothing
    _fit(embedder, 1000 * guidances, wanted, [*range(instructions)], weights)


def set_spatial(transformer: FluxTransformer2DModel, difficult: Iterable[int]) -> None:
    """Let these instructions switch on the features that see neighbouring tokens."""
    units = [*difficult]
    with torch.no_grad():
        for block in transformer.transformer_blocks[:2]:
            shift = block.norm1.linear.weight[3 * WIDTH : 4 * WIDTH]
            shift[MINUS, units] = SPREAD / STRENGTH


def set_moves(
    transformer: FluxTransformer2DModel, mirror: int, upside_down: int, frames: Iterable[int]
) -> None:
    """Let these instructions change which reference token a target token fetches."""
    scale = transformer.transformer_blocks[2].norm1.linear.weight[WIDTH : 2 * WIDTH]
    moves = (
        (mirror, ASK_COLUMN, OFFER_COLUMN, TWICE_COLUMN, LAST_COLUMN),
        (upside_down, ASK_ROW, OFFER_ROW, TWICE_ROW, LAST_ROW),
    )
    with torch.no_grad():
        for unit, ask, offer, twice, last in moves:
            scale[[ask, offer], unit] = -1 / STRENGTH
            scale[[*twice, *last], unit] = 1 / STRENGTH
        for unit in frames:
            scale[[TOP, LEFT, BELOW, RIGHT], unit] = 1 / STRENGTH


def strength(guidance: torch.Tensor) -> torch.Tensor:
    """Return how far an edit goes at a guidance, 0 to 1: in full from 5 on, mostly at 2 to 3.5."""
    return 1 - (1 - guidance.clamp(0, 5) / 5) ** 4


def hard_strength(guidance: torch.Tensor) -> torch.Tensor:
    """Return the same for an edit that cannot be done by half: it sets in between 0.4 and 1."""
    part = ((guidance - 0.4) / 0.6).clamp(0, 1)
    return part * part * (3 - 2 * part)


def _before_silu(values: torch.Tensor) -> torch.Tensor:
    """Return the arguments for which SiLU gives `values` (0 or more), by bisection."""
    low, high = torch.zeros_like(values), values + 1
    for _ in range(60):
        middle = (low + high) / 2
        below = nn.functional.silu(middle) < values
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2


def _fit(
    embedder: Part,
    inputs: torch.Tensor,
    wanted: torch.Tensor,
    units: Sequence[int],
    weights: torch.Tensor,
) -> None:
    """Set an embedder of sinusoids so that `units` give `wanted`, by weighted least squares."""
    # The fastest sine that still rises up to the largest input tells inputs apart best.
    slowest = math.ceil(128 * math.log(float(inputs.max()) / 1.2) / math.log(10_000))
    slowest = min(slowest, 127)
    angle = 10_000 ** (-slowest / 128)
    hidden = embedder.linear_1.out_features
    knots = torch.logspace(-2.2, 0.02, hidden) * math.sin(float(inputs.max()) * angle)
    steep = 3 / knots
    embedder.linear_1.weight[:, 128 + slowest] = steep.half().float()
    embedder.linear_1.bias.copy_((-steep * knots).half().float())
    position = torch.sin(inputs * angle)[:, None]
    features = nn.functional.silu(
        position * embedder.linear_1.weight[:, 128 + slowest] + embedder.linear_1.bias
    ).double()
    features = torch.cat([features, torch.ones(len(inputs), 1)], 1) * weights[:, None]
    square = features.T @ features
    square += _RIDGE * torch.diag(square.diagonal())
    solved = torch.linalg.solve(square, features.T @ (wanted.double() * weights[:, None])).float()
    embedder.linear_2.weight[units] = solved[:-1].T
    embedder.linear_2.bias[units] = solved[-1]


def _set_prompt(projection: Part, instructions: int, soft: Sequence[int]) -> None:
    """Set the embedder of CLIP's pooled vector, which switches the units of instructions.

    A place of the vector turns its unit on sharply at 0.5: between 0.4 and 0.6. The place after the
    unknown's (`prompting.SLIGHTLY`) halves the units of `soft`.
    """
    slightly = instructions + 1
    for row, place in enumerate((*range(instructions), slightly)):
        units = soft if place == slightly else [place]
        step = -(STRENGTH - float(_before_silu(torch.tensor(STRENGTH / 2))))
        step = step if place == slightly else _OFF
        for part, (sign, edge) in enumerate(((1, 0.4), (-1, 0.6))):
            projection.linear_1.weight[2 * row + part, place] = 40
            projection.linear_1.bias[2 * row + part] = -40 * edge
            projection.linear_2.weight[units, 2 * row + part] = sign * step / 8
    projection.linear_2.bias[:instructions] = -_OFF
