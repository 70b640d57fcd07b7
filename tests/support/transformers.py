"""A small transformer of diffusers, the same as the worker computes it, and calls of it."""

import copy
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import FluxTransformer2DModel

from kontext.inference import acceleration
from kontext.inference.plan import EXACT, Plan

TEXT_TOKENS = 64


def built(**other: Any) -> FluxTransformer2DModel:
    """Return diffusers' transformer, small, whose gates are open so that each block counts."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "num_layers": 2,
        "num_single_layers": 4,
        "attention_head_dim": 32,
        "num_attention_heads": 4,
        "joint_attention_dim": 64,
        "pooled_projection_dim": 32,
        "axes_dims_rope": (8, 12, 12),
    }
    transformer = FluxTransformer2DModel(guidance_embeds=True, **settings | other).eval()
    for name, layer in transformer.named_modules():
        if ".norm" in name and name.endswith(".linear"):
            layer.bias.data.fill_(1.0)
    return transformer


def prepared(transformer: FluxTransformer2DModel, plan: Plan = EXACT) -> Any:
    """Return a copy as the worker computes it."""
    pipeline: Any = SimpleNamespace(
        transformer=copy.deepcopy(transformer),
        text_encoder_2=torch.nn.Module(),
        device=torch.device("cpu"),
    )
    acceleration.prepare(pipeline, plan)
    return pipeline.transformer


def a_call(transformer: FluxTransformer2DModel, seed: int = 1, **other: Any) -> dict[str, Any]:
    """Return what the pipeline passes, for an image of 16 x 12 tokens; the same for each dtype."""
    generator, dtype = torch.Generator().manual_seed(seed), transformer.dtype
    config = transformer.config

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).bfloat16().to(dtype)

    rows, columns = torch.arange(16.0), torch.arange(12.0)
    return {
        "hidden_states": normal(1, 192, 64),
        "encoder_hidden_states": normal(1, TEXT_TOKENS, config.joint_attention_dim),
        "pooled_projections": normal(1, config.pooled_projection_dim),
        "timestep": torch.tensor([0.5], dtype=dtype),
        "guidance": torch.tensor([2.5]),
        "img_ids": torch.cartesian_prod(torch.zeros(1), rows, columns),
        "txt_ids": torch.zeros(TEXT_TOKENS, 3),
        "joint_attention_kwargs": None,
        "return_dict": False,
    } | other


@torch.no_grad()
def output(transformer: FluxTransformer2DModel, call: dict[str, Any]) -> torch.Tensor:
    return transformer(**call)[0].float()  # type: ignore[no-any-return]


def error(of: torch.Tensor, against: torch.Tensor) -> float:
    return float((of - against).norm() / against.norm())
