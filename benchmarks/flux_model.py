"""Build FLUX.1 Kontext's pipeline in any size, with random weights, for tests and benchmarks.

The classes are the real ones, so timings at full size are those of the real model, but images are
noise, and errors understate those of real weights, whose activations have outliers. No worker loads
such a model; what a laptop runs is the trained stand-in (`kontext.inference.stand_in`), whose
networks come from here too.
"""

import string
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxKontextPipeline,
    FluxTransformer2DModel,
)
from flux_sizes import TINY, AutoencoderSizes, ClipSizes, Sizes, T5Sizes, TransformerSizes
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

LATENT_CHANNELS = 16


def pipeline(
    sizes: Sizes = TINY, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> FluxKontextPipeline:
    """Build a pipeline on its device, with the same weights every time on the same hardware.

    The tokenizers are tiny in every size: their few tokens cost as much as any others.
    """
    clip_tokens, t5_tokens = _clip_tokenizer(), _t5_tokenizer()
    with torch.random.fork_rng(devices=[]), torch.device(device), _default_dtype(dtype):
        torch.manual_seed(0)
        networks = {  # the order in which weights are drawn
            "vae": autoencoder(sizes.autoencoder),
            "text_encoder": clip(sizes.clip, sizes.clip.vocabulary or len(clip_tokens)),
            "text_encoder_2": t5(sizes.t5, sizes.t5.vocabulary or len(t5_tokens)),
            "transformer": transformer(sizes.transformer, sizes.clip.width, sizes.t5.width),
        }
    return FluxKontextPipeline(
        scheduler=scheduler(), tokenizer=clip_tokens, tokenizer_2=t5_tokens, **networks
    )


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Build FLUX.1 Kontext [dev]'s own scheduler."""
    return FlowMatchEulerDiscreteScheduler(
        base_image_seq_len=256,
        base_shift=0.5,
        max_image_seq_len=4096,
        max_shift=1.15,
        shift=3.0,
        use_dynamic_shifting=True,
    )


def transformer(
    sizes: TransformerSizes, pooled_width: int, prompt_width: int
) -> FluxTransformer2DModel:
    """Build the transformer on torch's default device, in its default dtype.

    Args:
        sizes: Its own sizes.
        pooled_width: Entries of CLIP's pooled vector.
        prompt_width: Entries of one of T5's tokens.
    """
    return FluxTransformer2DModel(
        in_channels=4 * LATENT_CHANNELS,
        num_layers=sizes.double_blocks,
        num_single_layers=sizes.single_blocks,
        attention_head_dim=sizes.head_width,
        num_attention_heads=sizes.heads,
        joint_attention_dim=prompt_width,
        pooled_projection_dim=pooled_width,
        guidance_embeds=True,
        axes_dims_rope=sizes.rotary_axes,
    ).eval()


def autoencoder(sizes: AutoencoderSizes) -> AutoencoderKL:
    """Build the autoencoder on torch's default device, in its default dtype."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(sizes.channels),
        up_block_types=("UpDecoderBlock2D",) * len(sizes.channels),
        block_out_channels=sizes.channels,
        layers_per_block=sizes.blocks,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=sizes.groups,
        mid_block_add_attention=sizes.has_attention,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=sizes.scaling,
        shift_factor=sizes.shift,
    ).eval()


def clip(sizes: ClipSizes, vocabulary: int) -> CLIPTextModel:
    """Build CLIP's text encoder for a tokenizer whose prompts begin with token 0 and end with 1."""
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=sizes.width,
        intermediate_size=sizes.network_width,
        projection_dim=sizes.width,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        max_position_embeddings=77,
        bos_token_id=0,
        eos_token_id=1,
    )
    return CLIPTextModel(config).eval()


def t5(sizes: T5Sizes, vocabulary: int) -> T5EncoderModel:
    """Build T5's encoder for a tokenizer that pads with token 0 and ends prompts with 1."""
    config = T5Config(
        vocab_size=vocabulary,
        d_model=sizes.width,
        d_kv=sizes.head_width,
        d_ff=sizes.network_width,
        num_layers=sizes.layers,
        num_heads=sizes.heads,
        feed_forward_proj="gated-gelu",
        relative_attention_num_buckets=sizes.distance_buckets,
        relative_attention_max_distance=sizes.max_distance,
        pad_token_id=0,
        eos_token_id=1,
    )
    return T5EncoderModel(config).eval()


def _clip_tokenizer() -> CLIPTokenizer:
    """Return a tokenizer that spells every word, without merges."""
    letters = [chr(code) for code in range(0x21, 0x180)]
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{one}</w>" for one in letters)]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)


def _t5_tokenizer() -> T5Tokenizer:
    """Return a tokenizer that spells every word."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -10.0), ("▁", -1.0)]
    vocabulary = special + [(character, -1.0) for character in string.printable[:94]]
    return T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=512)
