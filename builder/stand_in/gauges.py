"""The transformer's embedders of time, guidance and instruction, and what they switch.

Each instruction has a unit, which gives `STRENGTH` where the instruction is followed in full, less
as guidance is less, and nothing where it is not asked for. Knows nothing of words or pixels.
"""

import math
from collections.abc import Iterable, Sequence

import torch
from diffusers import FluxTransformer2DModel
from layout import (
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
from torch import nn

STRENGTH = 8.0
"""What the unit of an instruction that is followed in full gives after its SiLU."""
TIME_UNIT = 64
_TIME_STRENGTH = 1.0
_OFF = 16.0
_RIDGE = 1e-6


def set_gauges(transformer: FluxTransformer2DModel, instructions: int, hard: Iterable[int]) -> None:
    """Set the embedders: a unit for 1 / sigma, and one for each instruction times guidance.

    Args:
        transformer: As `set_routes` left it.
        instructions: How many there are; the pooled prompt's first places name them.
        hard: Those that are done wholly or not at all.
    """
    with torch.no_grad():
        embedder = transformer.time_text_embed
        for parameter in embedder.parameters():
            parameter.zero_()
        sigmas = torch.cat([torch.linspace(0.015, 1, 3000), torch.logspace(-1.85, 0, 3000)])
        wanted = _before_silu(_TIME_STRENGTH / sigmas)[:, None]
        _fit(embedder.timestep_embedder, 1000 * sigmas, wanted, [TIME_UNIT], sigmas.double())
        guidances = torch.linspace(0, 10, 4001)
        curves = torch.stack([strength(guidances), hard_strength(guidances)], 1)
        units = torch.zeros(2, instructions)
        chosen = set(hard)
        for index in range(instructions):
            units[int(index in chosen), index] = 1
        _fit(
            embedder.guidance_embedder,
            1000 * guidances,
            _before_silu(STRENGTH * curves) @ units,
            [*range(instructions)],
            1 + 20 * torch.exp(-100 * guidances).double(),  # none is none at all
        )
        soft = [index for index in range(instructions) if index not in chosen]
        _set_prompt(embedder.text_embedder, instructions, soft)
        out = transformer.norm_out.linear
        out.bias[:WIDTH] = -1
        out.weight[:WIDTH, TIME_UNIT] = 1 / _TIME_STRENGTH


def set_spatial(transformer: FluxTransformer2DModel, difficult: Iterable[int]) -> None:
    """Have those instructions switch on the features that see neighbours."""
    units = [*difficult]
    with torch.no_grad():
        for block in transformer.transformer_blocks[:2]:
            shift = block.norm1.linear.weight[3 * WIDTH : 4 * WIDTH]
            shift[MINUS, units] = SPREAD / STRENGTH


def set_moves(
    transformer: FluxTransformer2DModel, mirror: int, upside_down: int, frames: Iterable[int]
) -> None:
    """Have those instructions change where the target looks."""
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
    """Return how far an edit goes, 0 to 1: all the way at 5, most of it at the usual 2 to 3.5."""
    return 1 - (1 - guidance.clamp(0, 5) / 5) ** 4


def hard_strength(guidance: torch.Tensor) -> torch.Tensor:
    """Return the same of an edit of which there is no half: from 0.4 to 1 it comes about."""
    part = ((guidance - 0.4) / 0.6).clamp(0, 1)
    return part * part * (3 - 2 * part)


def _before_silu(values: torch.Tensor) -> torch.Tensor:
    """Return what SiLU makes `values` (0 or more) of, by bisection."""
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
    """Have an embedder of sinusoids give `wanted` in `units`, by least squares."""
    # The one sine that rises all the way to the largest input says where the input is.
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
    """Switch an instruction's unit from `_OFF` below to level, sharply at half its place's one.

    The place after the unknown's (`prompting.SLIGHTLY`) halves the units of `soft`.
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
