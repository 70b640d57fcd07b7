"""The stand-in's networks: the classes of FLUX.1 Kontext, tiny, and how they start out.

What needs no learning is set by construction: the autoencoder's encoder is a cosine transform.
The rest is learnt by `train`. Knows nothing of instructions or pictures.
"""

import math

import torch
from diffusers import AutoencoderKL
from layout import COSINES, Part
from torch import nn

LATENTS = 16
_CHANNELS = (8, 24, 32, 48)
_GROUPS = 4
_STEADY = 300.0
"""A constant channel so large that the encoder's last normalisation divides by it alone."""
TO_LUMA_CHROMA = torch.tensor(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
)
"""JPEG's (ITU-R BT.601), from red, green, blue."""


def latent_gains() -> torch.Tensor:
    """Return what each cosine is multiplied by, so that latents have about unit variance."""
    gains = []
    for channel, down, across in COSINES:
        spread = 4.0 if channel == 0 else 1.6
        gains.append(1.4 / spread * (1 + down + across) ** 0.6)
    return torch.tensor(gains)


def autoencoder() -> AutoencoderKL:
    """Return FLUX's kind of autoencoder: a set encoder, a decoder to be learnt."""
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=_CHANNELS,
        layers_per_block=1,
        latent_channels=LATENTS,
        norm_num_groups=_GROUPS,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=1.0,
        shift_factor=0.0,
    )
    with torch.no_grad():
        _set_encoder(vae.encoder)
    vae.encoder.requires_grad_(False)
    return vae.eval()


def _cosine(frequency: int) -> torch.Tensor:
    places = (torch.arange(8) + 0.5) * math.pi / 8
    return torch.cos(places * frequency) * (0.5 if frequency else 8**-0.5)


def _set_encoder(encoder: Part) -> None:
    """Make it 2x2 pixels -> channels three times, then the cosines of what was kept."""
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
    """Give each channel's four pixels a channel of their own, or only their mean."""
    place = 0
    for channel, parts in plan:
        if parts == 1:
            convolution.weight[place, channel, :2, :2] = 0.25
        for part in range(parts if parts > 1 else 0):
            convolution.weight[place + part, channel, part // 2, part % 2] = 1
        place += parts


def _transform(convolution: nn.Conv2d) -> None:
    """Take the cosines of 8x8 pixels from 2x2 places of the channels gathered."""
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
    """Get the cosines through normalisation and SiLU unharmed, as SiLU(z) - SiLU(-z) = z."""
    shortcut = encoder.down_blocks[3].resnets[0].conv_shortcut
    size = _CHANNELS[-1] // _GROUPS
    for index in range(LATENTS):
        place = (index // 4) * size + index % 4
        shortcut.weight[place, index] = 1
        shortcut.weight[place + 4, index] = -1
        encoder.conv_out.weight[index, place, 1, 1] = 1
        encoder.conv_out.weight[index, place + 4, 1, 1] = -1
    for group in range(_GROUPS):
        shortcut.bias[group * size + 8 : group * size + 10] = _STEADY
        shortcut.bias[group * size + 10 : group * size + 12] = -_STEADY
    encoder.conv_norm_out.weight.fill_(_STEADY * (4 / size) ** 0.5)
    encoder.conv_out.bias[LATENTS:] = -20
