"""Build the stand-in's autoencoder, whose encoder is set and whose decoder is to be trained.

The encoder computes a cosine transform of 8x8 pixels, as JPEG does, in the layers of diffusers'
class. Knows pixels and latents, not the transformer.
"""

import math

import flux_model
import torch
from diffusers import AutoencoderKL
from flux_model import LATENT_CHANNELS
from torch import nn

from .layout import COSINES, SIZES, Part

_STEADY = 300.0
"""Value of constant channels: so large that the last normalisation divides by it alone."""
TO_LUMA_CHROMA = torch.tensor(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
)
"""Matrix from red, green and blue to luma and chroma by ITU-R BT.601, as JPEG has it."""


def latent_gains() -> torch.Tensor:
    """Return the factor of each cosine, with which latents have about unit variance."""
    gains = []
    for channel, down, across in COSINES:
        spread = 4.0 if channel == 0 else 1.6
        gains.append(1.4 / spread * (1 + down + across) ** 0.6)
    return torch.tensor(gains)


def autoencoder() -> AutoencoderKL:
    """Build the autoencoder: the encoder set and frozen, the decoder with random weights."""
    vae = flux_model.autoencoder(SIZES.autoencoder)
    with torch.no_grad():
        _set_encoder(vae.encoder)
    vae.encoder.requires_grad_(False)
    return vae


def _cosine(frequency: int) -> torch.Tensor:
    """Return one cosine of the transform of eight values."""
    places = (torch.arange(8) + 0.5) * math.pi / 8
    return torch.cos(places * frequency) * (0.5 if frequency else 8**-0.5)


def _set_encoder(encoder: Part) -> None:
    """Move 2x2 pixels into channels twice, then take the cosines of these."""
    for name, parameter in encoder.named_parameters():
        if "norm" not in name:
            parameter.zero_()
    encoder.conv_in.weight[:3, :, 1, 1] = TO_LUMA_CHROMA
    blocks = encoder.down_blocks
    _gather(blocks[0].downsamplers[0].conv, [(0, 4), (1, 1), (2, 1)])
    _pass(blocks[1].resnets[0].conv_shortcut)
    _gather(blocks[1].downsamplers[0].conv, [*((index, 4) for index in range(4)), (4, 4), (5, 4)])
    _pass(blocks[2].resnets[0].conv_shortcut)
    _transform(blocks[2].downsamplers[0].conv)
    _mirror_signs(encoder)


def _pass(convolution: nn.Conv2d) -> None:
    for index in range(min(convolution.weight.shape[:2])):
        convolution.weight[index, index] = 1


def _gather(convolution: nn.Conv2d, plan: list[tuple[int, int]]) -> None:
    """Give each of a channel's four pixels its own channel, or keep only their mean."""
    place = 0
    for channel, parts in plan:
        if parts == 1:
            convolution.weight[place, channel, :2, :2] = 0.25
        for part in range(parts if parts > 1 else 0):
            convolution.weight[place + part, channel, part // 2, part % 2] = 1
        place += parts


def _transform(convolution: nn.Conv2d) -> None:
    """Take the cosines of 8x8 pixels, which are 2x2 places of the gathered channels."""
    gains = latent_gains()
    for index, (channel, down, across) in enumerate(COSINES):
        pattern = torch.outer(_cosine(down), _cosine(across)) * gains[index]
        for row, column in ((row, column) for row in range(2) for column in range(2)):
            quarter = pattern[4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            if channel == 0:
                for y, x in ((y, x) for y in range(4) for x in range(4)):
                    # The first gathering put fine places first, the second coarse ones within.
                    source = ((y % 2) * 2 + x % 2) * 4 + (y // 2) * 2 + x // 2
                    convolution.weight[index, source, row, column] = quarter[y, x]
            else:
                for y, x in ((y, x) for y in range(2) for x in range(2)):
                    source = 16 + (channel - 1) * 4 + y * 2 + x
                    part = quarter[2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
                    convolution.weight[index, source, row, column] = part.sum()


def _mirror_signs(encoder: Part) -> None:
    """Take the cosines through normalisation and SiLU unchanged, as SiLU(z) - SiLU(-z) = z."""
    shortcut = encoder.down_blocks[3].resnets[0].conv_shortcut
    groups = SIZES.autoencoder.groups
    size = SIZES.autoencoder.channels[-1] // groups
    for index in range(LATENT_CHANNELS):
        place = (index // 4) * size + index % 4
        shortcut.weight[place, index] = 1
        shortcut.weight[place + 4, index] = -1
        encoder.conv_out.weight[index, place, 1, 1] = 1
        encoder.conv_out.weight[index, place + 4, 1, 1] = -1
    for group in range(groups):
        shortcut.bias[group * size + 8 : group * size + 10] = _STEADY
        shortcut.bias[group * size + 10 : group * size + 12] = -_STEADY
    encoder.conv_norm_out.weight.fill_(_STEADY * (4 / size) ** 0.5)
    encoder.conv_out.bias[LATENT_CHANNELS:] = -20  # log variance: latents without noise
