"""FLUX.1 Kontext [dev]'s real configuration with random weights.

Timings are those of the real model, images are noise, and errors understate those of real
weights, whose activations have outliers.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import random_model
import torch
from diffusers import AutoencoderKL, FluxKontextPipeline, FluxTransformer2DModel
from gpu_work import DOUBLE_BLOCKS, SINGLE_BLOCKS, WIDTH
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

T5_LAYERS = 24


class Depth(NamedTuple):
    """How many layers of each kind; the widths are always the real ones."""

    double: int = DOUBLE_BLOCKS
    single: int = SINGLE_BLOCKS
    text: int = T5_LAYERS


FULL = Depth()
REDUCED = Depth(double=2, single=4, text=2)


def pipeline(depth: Depth, dtype: torch.dtype, device: str) -> FluxKontextPipeline:
    """Build the pipeline on its device; the same weights every time on one card.

    The tokenizers are tiny ones, whose few tokens cost as much as any.
    """
    tiny = random_model.pipeline()
    torch.manual_seed(0)
    with torch.device(device), _default(dtype):
        return FluxKontextPipeline(
            scheduler=tiny.scheduler,
            vae=vae(),
            text_encoder=_clip(tiny.tokenizer.eos_token_id),
            tokenizer=tiny.tokenizer,
            text_encoder_2=_t5(depth.text),
            tokenizer_2=tiny.tokenizer_2,
            transformer=_transformer(depth),
        )


@contextmanager
def _default(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _transformer(depth: Depth) -> FluxTransformer2DModel:
    return FluxTransformer2DModel(
        in_channels=64,
        num_layers=depth.double,
        num_single_layers=depth.single,
        attention_head_dim=128,
        num_attention_heads=WIDTH // 128,
        joint_attention_dim=4096,
        pooled_projection_dim=768,
        guidance_embeds=True,
        axes_dims_rope=(16, 56, 56),
    ).eval()


def _t5(layers: int) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(
            vocab_size=32128,
            d_model=4096,
            d_kv=64,
            d_ff=10240,
            num_layers=layers,
            num_heads=64,
            feed_forward_proj="gated-gelu",
        )
    ).eval()


def _clip(end: int) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49408,
            hidden_size=768,
            intermediate_size=3072,
            projection_dim=768,
            num_hidden_layers=12,
            num_attention_heads=12,
            max_position_embeddings=77,
            eos_token_id=end,
        )
    ).eval()


def vae() -> AutoencoderKL:
    """Build FLUX.1's autoencoder, on torch's default device, in its default dtype."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=16,
        norm_num_groups=32,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=0.3611,
        shift_factor=0.1159,
    ).eval()
