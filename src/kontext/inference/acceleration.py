"""Applies a plan to a loaded pipeline: fewer kernels, quantisation, compilation.

Does not know GPUs, requests or files.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import torch
from diffusers import FluxKontextPipeline
from torch import nn
from torchao.core.config import AOBaseConfig
from torchao.quantization import (
    Float8DynamicActivationFloat8WeightConfig,
    Float8WeightOnlyConfig,
    Int8DynamicActivationInt8WeightConfig,
    Int8WeightOnlyConfig,
    PerRow,
    quantize_,
)

from kontext.inference import attention, transformer
from kontext.inference.blocks import Block
from kontext.inference.plan import Plan, Precision
from kontext.inference.step_cache import step_cache

_CONFIGS: dict[Precision, AOBaseConfig] = {
    "float8": Float8DynamicActivationFloat8WeightConfig(granularity=PerRow()),
    "int8": Int8DynamicActivationInt8WeightConfig(granularity=PerRow()),
    "float8 weights": Float8WeightOnlyConfig(),
    "int8 weights": Int8WeightOnlyConfig(granularity=PerRow()),
}

INDUCTOR_OPTIONS = {
    # With it, torch 2.13 cannot generate code for quantised blocks that split a joint product
    # (pytorch issue 183696).
    "loop_ordering_after_fusion": False,
}
"""The options for Inductor, set explicitly because torch's defaults may differ."""

OUTER_BLOCKS = 2
"""The number of blocks at each end whose attention stays in bfloat16 when the others' is in float8.
Errors of the first pass through all later ones, and the inputs of the last have outliers. The
number was not measured on a GPU."""


def prepare(
    pipeline: FluxKontextPipeline, plan: Plan, device: torch.device | str | None = None
) -> None:
    """Apply `plan` to the pipeline, in place, and replace the transformer's classes by ours.

    The embedders, `norm_out` and the last projection are never quantised: they take almost no time,
    and an error in them reaches every token or the image itself.

    Args:
        pipeline: The pipeline, in bfloat16, or in float32 on a CPU.
        plan: The plan.
        device: The device to move the pipeline to; None if it is there already. Its blocks are
            moved and quantised one after another, so that the GPU holds at most one unquantised.
    """
    transformer.convert(pipeline.transformer)
    for block in _blocks(pipeline):
        _move(block, device)
        block.join_projections()
        for name, layer in block.own_linears():
            quantise(layer, plan.modulation if name.startswith("norm") else plan.transformer)
        block.share_weights()
    for layer in pipeline.text_encoder_2.modules():
        if isinstance(layer, nn.Linear):
            _move(layer, device)
            quantise(layer, plan.text_encoder)
    _move(pipeline, device)
    _set_attention(pipeline, plan)
    _prepare_vae(pipeline, plan)


def _move(module: nn.Module | FluxKontextPipeline, device: torch.device | str | None) -> None:
    if device is not None:
        module.to(device)


def quantise(layer: nn.Linear, precision: Precision) -> None:
    """Quantise a linear layer in place."""
    if precision != "bfloat16":
        quantize_(layer, _CONFIGS[precision])


def _set_attention(pipeline: FluxKontextPipeline, plan: Plan) -> None:
    """Set the attention kernel of each block."""
    blocks, attend = list(_blocks(pipeline)), attention.kernel(plan.attention)
    for block in blocks:
        block.attend = attend
    if plan.float8_attention:
        attend = attention.kernel(plan.float8_attention)
        for block in blocks[OUTER_BLOCKS:-OUTER_BLOCKS]:
            block.attend = attend


def _prepare_vae(pipeline: FluxKontextPipeline, plan: Plan) -> None:
    """Set up the VAE. Compiling it would gain at most 12 ms an edit (benchmarks/vae_traffic.py)."""
    if plan.tiled:
        pipeline.vae.enable_tiling()
    if pipeline.device.type == "cuda":
        # The layout of cuDNN's convolutions, which else permute their tensors, and back.
        pipeline.vae.to(memory_format=torch.channels_last)


def compile(  # noqa: A001 - always called by its module's name
    pipeline: FluxKontextPipeline, backend: str | Callable[..., Any] = "inductor"
) -> None:
    """Make the transformer's blocks compile at their first call, once for all sizes.

    Args:
        pipeline: The prepared pipeline, on its device.
        backend: The backend of `torch.compile`.
    """
    options = INDUCTOR_OPTIONS if backend == "inductor" else None
    for block in _blocks(pipeline):
        block.compile(fullgraph=True, dynamic=True, backend=backend, options=options)


def denoising(
    pipeline: FluxKontextPipeline, plan: Plan, steps: int, branches: int
) -> AbstractContextManager[object]:
    """Return a context manager for one edit, in which steps share tensors or are predicted.

    Args:
        pipeline: The pipeline, prepared or plain diffusers.
        plan: The plan, which says whether some steps are predicted.
        steps: The number of steps of the edit.
        branches: The transformer calls a step: 2 with true classifier-free guidance, else 1.
    """
    stack = ExitStack()
    if isinstance(pipeline.transformer, transformer.Transformer):
        stack.enter_context(pipeline.transformer.one_edit(pipeline.scheduler))
    if plan.step_cache:
        stack.enter_context(step_cache(pipeline, steps, branches))
    return stack


def _blocks(pipeline: FluxKontextPipeline) -> Iterator[Block]:
    yield from pipeline.transformer.transformer_blocks
    yield from pipeline.transformer.single_transformer_blocks
