"""The same small random weights in the reference's classes and in a diffusers pipeline.

Every kind of layer of FLUX.1 Kontext [dev] is there, fewer and narrower. Norms and biases are
random too: at their initial ones and zeros a tensor in the wrong place would not show.
"""

from dataclasses import dataclass
from typing import Any

import conversion
import random_model
import torch
from checkout import Reference
from diffusers import AutoencoderKL, FluxKontextPipeline, FluxTransformer2DModel
from torch import nn

_HIDDEN, _HEADS, _AXES = 128, 2, (16, 24, 24)
_DOUBLE, _SINGLE = 2, 3
_PROMPT_WIDTH = 32
"""Of the text encoders in `random_model`."""
_CHANNELS, _MULTIPLES, _LAYERS = 32, (1, 2, 2, 2), 1
_SCALE, _SHIFT = 0.3611, 0.1159


class ConversionError(Exception):
    """Weights that were converted there and back are not what they were."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One set of weights, twice.

    Attributes:
        flux: The reference's transformer, float32.
        autoencoder: The reference's, float32.
        pipeline: What the project runs, in float32.
    """

    flux: Any
    autoencoder: Any
    pipeline: FluxKontextPipeline


def build(reference: Reference) -> Pair:
    """Build both; the same weights every time.

    Raises:
        ConversionError: They differ after a conversion there and back.
    """
    torch.manual_seed(1)
    flux = _randomise(_flux(reference))
    autoencoder = _randomise(_autoencoder(reference))
    pipeline = random_model.pipeline()
    pipeline.set_progress_bar_config(disable=True)
    transformer, vae = _transformer(), _vae()
    _convert(flux, transformer, conversion.transformer_rules(_DOUBLE, _SINGLE))
    _convert(autoencoder, vae, conversion.autoencoder_rules(autoencoder.state_dict()))
    pipeline.register_modules(transformer=transformer, vae=vae)
    return Pair(flux, autoencoder, pipeline)


def _convert(theirs: nn.Module, ours: nn.Module, rules: list[conversion.Rule]) -> None:
    """Give `ours` the weights of `theirs`, and see that they come back as they were."""
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
            vec_in_dim=_PROMPT_WIDTH,
            context_in_dim=_PROMPT_WIDTH,
            hidden_size=_HIDDEN,
            mlp_ratio=4.0,
            num_heads=_HEADS,
            depth=_DOUBLE,
            depth_single_blocks=_SINGLE,
            axes_dim=list(_AXES),
            theta=10_000,
            qkv_bias=True,
            guidance_embed=True,
        )
    )


def _transformer() -> FluxTransformer2DModel:
    return FluxTransformer2DModel(
        in_channels=64,
        num_layers=_DOUBLE,
        num_single_layers=_SINGLE,
        attention_head_dim=_HIDDEN // _HEADS,
        num_attention_heads=_HEADS,
        joint_attention_dim=_PROMPT_WIDTH,
        pooled_projection_dim=_PROMPT_WIDTH,
        guidance_embeds=True,
        axes_dims_rope=_AXES,
    ).eval()


def _autoencoder(reference: Reference) -> Any:  # noqa: ANN401
    return reference.autoencoder.AutoEncoder(
        reference.autoencoder.AutoEncoderParams(
            resolution=256,
            in_channels=3,
            ch=_CHANNELS,
            out_ch=3,
            ch_mult=list(_MULTIPLES),
            num_res_blocks=_LAYERS,
            z_channels=16,
            scale_factor=_SCALE,
            shift_factor=_SHIFT,
        )
    )


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(_MULTIPLES),
        up_block_types=("UpDecoderBlock2D",) * len(_MULTIPLES),
        block_out_channels=tuple(_CHANNELS * multiple for multiple in _MULTIPLES),
        layers_per_block=_LAYERS,
        latent_channels=16,
        norm_num_groups=32,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=_SCALE,
        shift_factor=_SHIFT,
    ).eval()
