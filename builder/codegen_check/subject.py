"""Build what is compiled: the transformer's blocks at their real width, and an edit's inputs.

Within a `FakeTensorMode` nothing here takes memory. Knows shapes, neither cards nor compilers.
"""

from dataclasses import replace
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from flux_model import transformer as flux_transformer
from flux_sizes import FULL
from torch import nn

PROMPT_TOKENS = 512


def transformer(blocks: int, device: str) -> FluxTransformer2DModel:
    """Build FLUX.1 Kontext [dev]'s real configuration with fewer blocks.

    Args:
        blocks: Number of double blocks, and of single blocks.
        device: Device of the weights, which are bfloat16.
    """
    with torch.device("meta"):
        sizes = replace(FULL.transformer, double_blocks=blocks, single_blocks=blocks)
        built = flux_transformer(sizes, FULL.clip.width, FULL.t5.width)
    for layer in built.modules():
        for name, weight in layer.named_parameters(recurse=False):
            empty = torch.empty(weight.shape, dtype=torch.bfloat16, device=device)
            setattr(layer, name, nn.Parameter(empty, requires_grad=False))
    return built


def inputs(image_tokens: int, device: str) -> dict[str, Any]:
    """Return what the pipeline passes to the transformer in one step, by name.

    Args:
        image_tokens: Tokens of the result and of the reference together.
        device: Device of the tensors.
    """

    def empty(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device=device)

    return {
        "hidden_states": empty(1, image_tokens, 64),
        "encoder_hidden_states": empty(1, PROMPT_TOKENS, 4096),
        "pooled_projections": empty(1, 768),
        "timestep": empty(1),
        "guidance": empty(1, dtype=torch.float32),
        "img_ids": empty(image_tokens, 3, dtype=torch.float32),
        "txt_ids": empty(PROMPT_TOKENS, 3, dtype=torch.float32),
        "joint_attention_kwargs": None,
        "return_dict": False,
    }
