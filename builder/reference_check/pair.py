"""Build the same small random weights in the reference's classes and in a diffusers pipeline.

Every kind of layer of FLUX.1 Kontext [dev] is there, fewer and narrower. Norms and biases are
random too, because two swapped tensors of ones or zeros would not be noticed.
"""

from dataclasses import dataclass
from typing import Any

import flux_model
import torch
from diffusers import FluxKontextPipeline
from flux_sizes import TINY, AutoencoderSizes, TransformerSizes
from torch import nn

from . import conversion
from .checkout import Reference

_TRANSFORMER = TransformerSizes(double_blocks=2, single_blocks=3, heads=2, rotary_axes=(16, 24, 24))
_CHANNELS, _MULTIPLES = 32, (1, 2, 2, 2)
_AUTOENCODER = AutoencoderSizes(
    channels=(_CHANNELS, 2 * _CHANNELS, 2 * _CHANNELS, 2 * _CHANNELS), blocks=1, groups=32
)


class ConversionError(Exception):
    """Weights that were converted there and back are not what they were."""


@dataclass(frozen=True, slots=True)
class Pair:
    """The same weights in both implementations, float32.

    Attributes:
        flux: The reference's transformer.
        autoencoder: The reference's autoencoder.
        pipeline: The diffusers pipeline that the project runs.
    """

    flux: Any
    autoencoder: Any
    pipeline: FluxKontextPipeline


def build(reference: Reference) -> Pair:
    """Build both sides, with the same weights every time.

    Raises:
        ConversionError: The weights differ after a conversion there and back.
    """
    torch.manual_seed(1)
    flux = _randomise(_flux(reference))
    autoencoder = _randomise(_autoencoder(reference))
    pipeline = flux_model.pipeline()
    pipeline.set_progress_bar_config(disable=True)
    transformer = flux_model.transformer(_TRANSFORMER, TINY.clip.width, TINY.t5.width)
    vae = flux_model.autoencoder(_AUTOENCODER)
    blocks = _TRANSFORMER.double_blocks, _TRANSFORMER.single_blocks
    _convert(flux, transformer, conversion.transformer_rules(*blocks))
    _convert(autoencoder, vae, conversion.autoencoder_rules(autoencoder.state_dict()))
    pipeline.register_modules(transformer=transformer, vae=vae)
    return Pair(flux, autoencoder, pipeline)


def _convert(theirs: nn.Module, ours: nn.Module, rules: list[conversion.Rule]) -> None:
    """Copy the weights of `theirs` into `ours`, and check that converting them back is exact."""
    original = theirs.state_dict()
    ours.load_state_dict(conversion.to_ours(original, rules, ours.state_dict()))
    returned = conversion.to_theirs(ours.state_dict(), rules)
    if returned.keys() != original.keys():
        raise ConversionError(f"not converted: {sorted(original.keys() ^ returned.keys())}")
    for name, tensor in original.items():
        if not torch.equal(tensor, returned[name]):
            raise ConversionError(f"changed on the way there and back: {name}")


def _randomise(module: Any) -> Any:  # noqa: ANN401 - a class of the checkout
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(False)
        noise = torch.randn_like(parameter)
        if parameter.ndim > 1:
            parameter.mul_(1.7)
        elif "norm" in name and name.endswith(("scale", "weight")):
            parameter.copy_(1 + 0.3 * noise)
        else:
            parameter.add_(0.1 * noise)
    return module.eval()


def _flux(reference: Reference) -> Any:  # noqa: ANN401
    return reference.model.Flux(
        reference.model.FluxParams(
            in_channels=64,
            out_channels=64,
            vec_in_dim=TINY.clip.width,
            context_in_dim=TINY.t5.width,
            hidden_size=_TRANSFORMER.width,
            mlp_ratio=4.0,
            num_heads=_TRANSFORMER.heads,
            depth=_TRANSFORMER.double_blocks,
            depth_single_blocks=_TRANSFORMER.single_blocks,
            axes_dim=list(_TRANSFORMER.rotary_axes),
            theta=10_000,
            qkv_bias=True,
            guidance_embed=True,
        )
    )


def _autoencoder(reference: Reference) -> Any:  # noqa: ANN401
    return reference.autoencoder.AutoEncoder(
        reference.autoencoder.AutoEncoderParams(
            resolution=256,
            in_channels=3,
            ch=_CHANNELS,
            out_ch=3,
            ch_mult=list(_MULTIPLES),
            num_res_blocks=_AUTOENCODER.blocks,
            z_channels=16,
            scale_factor=_AUTOENCODER.scaling,
            shift_factor=_AUTOENCODER.shift,
        )
    )
