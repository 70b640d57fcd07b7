"""What is compiled: the transformer's blocks at their real width, and what an edit passes in.

Shapes only: within a `FakeTensorMode` nothing here takes memory. Knows no card and no compiler.
"""

from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from torch import nn

PROMPT_TOKENS = 512


def transformer(blocks: int, device: str) -> FluxTransformer2DModel:
    """Build FLUX.1 Kontext [dev]'s real configuration with so many blocks of each kind.

    Args:
        blocks: Of each kind.
        device: Of the weights, which are bfloat16.
    """
    with torch.device("meta"):
        built = FluxTransformer2DModel(
            num_layers=blocks, num_single_layers=blocks, guidance_embeds=True
        )
    for layer in built.modules():
        for name, weight in layer.named_parameters(recurse=False):
            empty = torch.empty(weight.shape, dtype=torch.bfloat16, device=device)
            setattr(layer, name, nn.Parameter(empty, requires_grad=False))
    return built.eval()


def inputs(image_tokens: int, device: str) -> dict[str, Any]:
    """Return what the pipeline passes to it in one step.

    Args:
        image_tokens: Of the result and of the reference.
        device: Of the tensors.
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
