"""How the transformer learns what each instruction does, by flow matching as FLUX does it."""

from dataclasses import dataclass
from pathlib import Path

import gauges
import instructions
import layout
import numpy as np
import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from diffusers.pipelines.flux.pipeline_flux_kontext import calculate_shift
from pictures import Pictures
from random_model import scheduler
from schooling import Stage

_SIDES = ((7, 7), (8, 6), (6, 8), (10, 5), (5, 10), (8, 8))
"""Of the pictures learnt from, in tokens of 16 pixels: little, as the routes are set for all."""
_COUNT = 12
_LEAST_TIME = 0.02
_TOKENS = (256, 4096)
"""Of the pictures that are asked for: they say how far the schedule is shifted."""
_OFTEN = dict(zip(instructions.DIFFICULT, (8, 14, 5), strict=True))
_SHARES = np.array([float(_OFTEN.get(name, 1)) for name in instructions.NAMES])
_SHARES /= _SHARES.sum()
"""How often each is learnt: what is hard the most."""
_UNDECIDED = (0.3, 1.1)
"""Guidances where a move is neither done nor undone."""


@dataclass(frozen=True, slots=True)
class Prompts:
    """The encoders' vectors of every instruction (and, last, of none).

    Args:
        pooled: CLIP's, (instructions + 1) x 64.
        states: T5's of any prompt, tokens x 64.
    """

    pooled: torch.Tensor
    states: torch.Tensor


def learn_edits(
    transformer: FluxTransformer2DModel,
    vae: AutoencoderKL,
    prompts: Prompts,
    steps: int,
    seed: int,
    folder: Path,
) -> None:
    """Train what of `transformer` is not set, in place."""
    learnt = _learnt(transformer)

    def loss_of(step: int) -> torch.Tensor:
        random = np.random.default_rng(seed * 1_000_003 + step)
        rows, columns = _SIDES[step % len(_SIDES)]
        pictures = Pictures(seed * 1_000_003 + step).batch(_COUNT, 16 * rows, 16 * columns)
        names = random.choice(len(instructions.NAMES), _COUNT, p=_SHARES)
        guidances = _guidances(random)
        edited = _edited(pictures, names, guidances)
        noise = torch.from_numpy(random.standard_normal((_COUNT, rows * columns, 64))).float()
        sigmas = _sigmas(random).view(_COUNT, 1, 1)
        reference, wanted = latents_of(vae, pictures), latents_of(vae, edited)
        velocity: torch.Tensor = transformer(
            hidden_states=torch.cat([(1 - sigmas) * wanted + sigmas * noise, reference], 1),
            encoder_hidden_states=prompts.states.expand(_COUNT, -1, -1),
            pooled_projections=prompts.pooled[torch.from_numpy(names)],
            timestep=sigmas.flatten(),
            guidance=guidances,
            img_ids=torch.cat([_ids(0, rows, columns), _ids(1, rows, columns)]),
            txt_ids=torch.zeros(prompts.states.shape[1], 3),
            return_dict=False,
        )[0][:, : rows * columns]
        # Weighed so that every sigma asks for the same precision of the picture.
        return (sigmas * (velocity - (noise - wanted))).square().mean()

    Stage("edits", transformer, learnt, 4e-3, steps, folder).run(loss_of)


def latents_of(vae: AutoencoderKL, pictures: torch.Tensor) -> torch.Tensor:
    """Return packed latents, count x tokens x 64, of pictures, 0 to 1."""
    with torch.no_grad():
        latents: torch.Tensor = vae.encode(pictures * 2 - 1).latent_dist.mode()
    count, channels, height, width = latents.shape
    split = latents.view(count, channels, height // 2, 2, width // 2, 2)
    return split.permute(0, 2, 4, 1, 3, 5).reshape(count, -1, 4 * channels)


def _sigmas(random: np.random.Generator) -> torch.Tensor:
    """Return them of moments that the shifted schedule may pass."""
    shift = calculate_shift(random.uniform(*_TOKENS))
    moments = torch.from_numpy(random.uniform(_LEAST_TIME, 1, _COUNT))
    sigmas: torch.Tensor = scheduler().time_shift(shift, 1.0, moments)
    return sigmas.float()


def _guidances(random: np.random.Generator) -> torch.Tensor:
    """Return half of them full, half anything but where moves are neither done nor undone."""
    drawn = random.uniform(0, 6, _COUNT)
    low, high = _UNDECIDED
    drawn = np.where((drawn > low) & (drawn < high), 0, drawn)
    return torch.from_numpy(np.where(random.integers(2, size=_COUNT), 5, drawn)).float()


def _edited(
    pictures: torch.Tensor,
    names: np.ndarray[tuple[int], np.dtype[np.int64]],
    guidances: torch.Tensor,
) -> torch.Tensor:
    results = []
    for picture, index, guidance in zip(pictures, names, guidances, strict=True):
        name = instructions.NAMES[index]
        whole = name in instructions.WHOLE
        part = (gauges.hard_strength if whole else gauges.strength)(guidance)
        edited = instructions.EDITS[name](picture[None])[0]
        results.append(torch.lerp(picture, edited, part))
    return torch.stack(results)


def _ids(kind: int, rows: int, columns: int) -> torch.Tensor:
    ids = torch.zeros(rows, columns, 3)
    ids[..., 0] = kind
    ids[..., 1] += torch.arange(rows)[:, None]
    ids[..., 2] += torch.arange(columns)
    return ids.view(-1, 3)


def _learnt(transformer: FluxTransformer2DModel) -> list[torch.nn.Parameter]:
    """Return the parameters to learn, with all others and what keeps the routes held still."""
    transformer.requires_grad_(False)
    units = torch.zeros(layout.WIDTH)
    units[: len(instructions.NAMES)] = 1
    learnt = []
    for number, block in enumerate(transformer.transformer_blocks):
        last = number == len(transformer.transformer_blocks) - 1
        learnt.append(_hold(block.norm1.linear.weight, torch.outer(_rows(last), units)))
        if last:
            rows = _rows(shift_only=True)
            learnt.append(_hold(block.norm1_context.linear.weight, torch.outer(rows, units)))
        else:
            first, second = block.ff.net[0].proj, block.ff.net[2]
            seen = _places(layout.X).expand_as(first.weight).clone()
            seen[: layout.SPATIAL] += _places(layout.NEAR)
            learnt.append(_hold(first.weight, seen))
            learnt.append(_hold(second.weight, _places(layout.X)[:, None]))
    return learnt


def _rows(last: bool = False, shift_only: bool = False) -> torch.Tensor:
    """Return which of the six modulations' places are learnt: what is fetched, or what is added."""
    rows = torch.zeros(6, layout.WIDTH)
    if last or shift_only:
        rows[: 1 if shift_only else 2] = _places(layout.X)
    else:
        rows[3:] = _places(layout.X)
        rows[3:5] += _places(layout.NEAR)
    return rows.flatten()


def _places(slots: list[int]) -> torch.Tensor:
    places = torch.zeros(layout.WIDTH)
    places[slots] = 1
    return places


def _hold(parameter: torch.nn.Parameter, mask: torch.Tensor) -> torch.nn.Parameter:
    """Have it learnt where the mask is 1, and held elsewhere."""
    parameter.requires_grad_(True)
    parameter.register_hook(lambda gradient: gradient * mask)  # type: ignore[no-untyped-call]
    return parameter
