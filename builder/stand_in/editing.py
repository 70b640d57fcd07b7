"""Train the transformer to carry out each instruction, by flow matching as FLUX does it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from diffusers.pipelines.flux.pipeline_flux_kontext import calculate_shift
from flux_model import scheduler

from . import conditioning, instructions, layout
from .images import TrainingImages
from .stage import Stage

_SIDES = ((7, 7), (8, 6), (6, 8), (10, 5), (5, 10), (8, 8))
"""Rows and columns of the training images, in tokens of 16 pixels. Small ones are enough, because
the attention routes are set for every size."""
_COUNT = 12
"""Images of one step."""
_MIN_TIME = 0.02
_TOKENS = (256, 4096)
"""Fewest and most tokens of a result; the scheduler shifts its sigmas by this number."""
_EXTRA_SHARES = dict(zip(instructions.DIFFICULT, (8, 14, 5), strict=True))
_SHARES = np.array([float(_EXTRA_SHARES.get(name, 1)) for name in instructions.NAMES])
_SHARES /= _SHARES.sum()
"""Probability of each instruction in a step; difficult ones come more often."""
_UNDECIDED = (0.3, 1.1)
"""Range of guidances at which a move is only half done; none is drawn from it."""


@dataclass(frozen=True, slots=True)
class Prompts:
    """The text encoders' outputs that the transformer is trained with.

    Args:
        pooled: CLIP's vectors of every instruction and, last, of none: (instructions + 1) x 64.
        states: T5's vectors of any one prompt: 1 x tokens x 64.
    """

    pooled: torch.Tensor
    states: torch.Tensor


def train_edits(
    transformer: FluxTransformer2DModel,
    vae: AutoencoderKL,
    prompts: Prompts,
    steps: int,
    seed: int,
    folder: Path,
) -> None:
    """Train in place those weights of `transformer` that are not set."""
    learnt = _learnt(transformer)

    def loss_of(step: int) -> torch.Tensor:
        batch = _batch(vae, seed * 1_000_003 + step, *_SIDES[step % len(_SIDES)])
        velocity = _velocity(transformer, prompts, batch)
        # The weight asks for the same precision of the image at every sigma.
        return (batch.sigmas * (velocity - (batch.noise - batch.wanted))).square().mean()

    Stage("edits", transformer, learnt, 4e-3, steps, folder).run(loss_of)


@dataclass(frozen=True, slots=True)
class _Batch:
    """The edits of one step.

    Attributes:
        reference: Packed latents of the images, count x tokens x 64.
        wanted: Packed latents of the true edits, count x tokens x 64.
        noise: Noise of the same shape.
        sigmas: Share of the noise in each edit, count x 1 x 1.
        names: Number of each edit's instruction.
        guidances: Guidance of each edit.
        ids: Positions of the tokens of target and reference, 2 * tokens x 3.
    """

    reference: torch.Tensor
    wanted: torch.Tensor
    noise: torch.Tensor
    sigmas: torch.Tensor
    names: torch.Tensor
    guidances: torch.Tensor
    ids: torch.Tensor


def _batch(vae: AutoencoderKL, seed: int, rows: int, columns: int) -> _Batch:
    """Draw edits of images with that many rows and columns of tokens."""
    random = np.random.default_rng(seed)
    images = TrainingImages(seed).batch(_COUNT, 16 * rows, 16 * columns)
    names = random.choice(len(instructions.NAMES), _COUNT, p=_SHARES)
    guidances = _guidances(random)
    noise = torch.from_numpy(random.standard_normal((_COUNT, rows * columns, 64))).float()
    return _Batch(
        reference=latents_of(vae, images),
        wanted=latents_of(vae, _edited(images, names, guidances)),
        noise=noise,
        sigmas=_sigmas(random).view(_COUNT, 1, 1),
        names=torch.from_numpy(names),
        guidances=guidances,
        ids=torch.cat([_ids(0, rows, columns), _ids(1, rows, columns)]),
    )


def _velocity(transformer: FluxTransformer2DModel, prompts: Prompts, batch: _Batch) -> torch.Tensor:
    """Return the transformer's prediction for the target's tokens, count x tokens x 64."""
    noisy = (1 - batch.sigmas) * batch.wanted + batch.sigmas * batch.noise
    predicted: torch.Tensor = transformer(
        hidden_states=torch.cat([noisy, batch.reference], 1),
        encoder_hidden_states=prompts.states.expand(_COUNT, -1, -1),
        pooled_projections=prompts.pooled[batch.names],
        timestep=batch.sigmas.flatten(),
        guidance=batch.guidances,
        img_ids=batch.ids,
        txt_ids=torch.zeros(prompts.states.shape[1], 3),
        return_dict=False,
    )[0]
    return predicted[:, : noisy.shape[1]]


def latents_of(vae: AutoencoderKL, images: torch.Tensor) -> torch.Tensor:
    """Encode images with values from 0 to 1 as packed latents, count x tokens x 64."""
    with torch.no_grad():
        latents: torch.Tensor = vae.encode(images * 2 - 1).latent_dist.mode()
    count, channels, height, width = latents.shape
    split = latents.view(count, channels, height // 2, 2, width // 2, 2)
    return split.permute(0, 2, 4, 1, 3, 5).reshape(count, -1, 4 * channels)


def _sigmas(random: np.random.Generator) -> torch.Tensor:
    """Draw sigmas that a shifted schedule may pass through."""
    shift = calculate_shift(random.uniform(*_TOKENS))
    times = torch.from_numpy(random.uniform(_MIN_TIME, 1, _COUNT))
    sigmas: torch.Tensor = scheduler().time_shift(shift, 1.0, times)
    return sigmas.float()


def _guidances(random: np.random.Generator) -> torch.Tensor:
    """Draw guidances: half of them full, the others anywhere outside `_UNDECIDED`."""
    drawn = random.uniform(0, 6, _COUNT)
    low, high = _UNDECIDED
    drawn = np.where((drawn > low) & (drawn < high), 0, drawn)
    return torch.from_numpy(np.where(random.integers(2, size=_COUNT), 5, drawn)).float()


def _edited(
    images: torch.Tensor,
    names: np.ndarray[tuple[int], np.dtype[np.int64]],
    guidances: torch.Tensor,
) -> torch.Tensor:
    """Return the true edits, each as strong as its guidance asks."""
    results = []
    for image, index, guidance in zip(images, names, guidances, strict=True):
        name = instructions.NAMES[index]
        whole = name in instructions.WHOLE
        part = (conditioning.hard_strength if whole else conditioning.strength)(guidance)
        edited = instructions.EDITS[name](image[None])[0]
        results.append(torch.lerp(image, edited, part))
    return torch.stack(results)


def _ids(kind: int, rows: int, columns: int) -> torch.Tensor:
    """Return the position of each token: kind (1 is the reference), row and column."""
    ids = torch.zeros(rows, columns, 3)
    ids[..., 0] = kind
    ids[..., 1] += torch.arange(rows)[:, None]
    ids[..., 2] += torch.arange(columns)
    return ids.view(-1, 3)


def _learnt(transformer: FluxTransformer2DModel) -> list[torch.nn.Parameter]:
    """Freeze all weights that are set, and return the parameters that hold the others."""
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
    """Return a mask of the entries to train among a block's six modulations.

    In the last block these are the shift and scale of what attention fetches (of the prompt's
    tokens the shift only), in the others the shift, scale and gate of the feed-forward network.
    """
    rows = torch.zeros(6, layout.WIDTH)
    if last or shift_only:
        rows[: 1 if shift_only else 2] = _places(layout.X)
    else:
        rows[3:] = _places(layout.X)
        rows[3:5] += _places(layout.NEAR)
    return rows.flatten()


def _places(slots: list[int]) -> torch.Tensor:
    """Return a mask of those places of a token."""
    places = torch.zeros(layout.WIDTH)
    places[slots] = 1
    return places


def _hold(parameter: torch.nn.Parameter, mask: torch.Tensor) -> torch.nn.Parameter:
    """Let training change the parameter only where the mask is 1."""
    parameter.requires_grad_(True)
    parameter.register_hook(lambda gradient: gradient * mask)  # type: ignore[no-untyped-call]
    return parameter
