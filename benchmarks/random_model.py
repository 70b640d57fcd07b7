"""The real classes, tiny, with random weights and every kind of block: for tests and benchmarks.

No worker loads it: an image that passes through is noise. The stand-in
(`kontext.inference.stand_in`) has no single blocks, and is not made for bfloat16.
"""

import string

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxKontextPipeline,
    FluxTransformer2DModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

_ATTENTION_HEAD = 16
_PROMPT_WIDTH = 32


def pipeline() -> FluxKontextPipeline:
    """Build the pipeline on the CPU in float32; the same weights every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return FluxKontextPipeline(
            scheduler=scheduler(),
            vae=_vae(),
            text_encoder=_clip(),
            tokenizer=_clip_tokenizer(),
            text_encoder_2=_t5(),
            tokenizer_2=_t5_tokenizer(),
            transformer=_transformer(),
        )


def scheduler() -> FlowMatchEulerDiscreteScheduler:
    """FLUX.1 Kontext [dev]'s own schedule."""
    return FlowMatchEulerDiscreteScheduler(
        base_image_seq_len=256,
        base_shift=0.5,
        max_image_seq_len=4096,
        max_shift=1.15,
        shift=3.0,
        use_dynamic_shifting=True,
    )


def _transformer() -> FluxTransformer2DModel:
    return FluxTransformer2DModel(
        in_channels=64,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=_ATTENTION_HEAD,
        num_attention_heads=1,
        joint_attention_dim=_PROMPT_WIDTH,
        pooled_projection_dim=_PROMPT_WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(4, 6, 6),
    ).eval()


def _vae() -> AutoencoderKL:
    """16 latent channels and 8 times smaller, as FLUX's; a few channels wide."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 4, 4, 4),
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=1,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=0.3611,
        shift_factor=0.1159,
    ).eval()


def _clip() -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(_clip_vocabulary()),
        hidden_size=_PROMPT_WIDTH,
        intermediate_size=_PROMPT_WIDTH,
        projection_dim=_PROMPT_WIDTH,
        num_hidden_layers=1,
        num_attention_heads=1,
        max_position_embeddings=77,
        bos_token_id=0,
        eos_token_id=1,
    )
    return CLIPTextModel(config).eval()


def _clip_vocabulary() -> dict[str, int]:
    letters = [chr(code) for code in range(0x21, 0x180)]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{one}</w>" for one in letters)]
    return {word: index for index, word in enumerate(words)}


def _clip_tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer(vocab=_clip_vocabulary(), merges=[], model_max_length=77)


def _t5() -> T5EncoderModel:
    config = T5Config(
        vocab_size=len(_t5_vocabulary()),
        d_model=_PROMPT_WIDTH,
        d_kv=_PROMPT_WIDTH,
        d_ff=_PROMPT_WIDTH,
        num_layers=1,
        num_heads=1,
        feed_forward_proj="gated-gelu",
    )
    return T5EncoderModel(config).eval()


def _t5_vocabulary() -> list[tuple[str, float]]:
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -10.0), ("▁", -1.0)]
    return special + [(character, -1.0) for character in string.printable[:94]]


def _t5_tokenizer() -> T5Tokenizer:
    return T5Tokenizer(vocab=_t5_vocabulary(), extra_ids=0, model_max_length=512)
