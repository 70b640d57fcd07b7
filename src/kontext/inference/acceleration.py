"""A loaded pipeline -> the same, quicker: fewer kernels, quantised, compiled.

Knows how a plan is carried out, and nothing of cards, requests or files.
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
from kontext.inference.mode import Plan, Precision
from kontext.inference.step_cache import step_cache

_CONFIGS: dict[Precision, AOBaseConfig] = {
    "float8": Float8DynamicActivationFloat8WeightConfig(granularity=PerRow()),
    "int8": Int8DynamicActivationInt8WeightConfig(granularity=PerRow()),
    "float8 weights": Float8WeightOnlyConfig(),
    "int8 weights": Int8WeightOnlyConfig(granularity=PerRow()),
}

INDUCTOR_OPTIONS = {
    # Where it is on, torch 2.13 cannot generate code for quantised blocks that split what they
    # have joined (pytorch issue 183696).
    "loop_ordering_after_fusion": False,
}
"""What Inductor is told whatever this torch's own default is."""


OUTER_BLOCKS = 2
"""So many blocks at each end attend in bfloat16 where the others do in float8: errors of the first
go through all others, and what enters the last has outliers. No card has confirmed the number."""


def prepare(
    pipeline: FluxKontextPipeline, plan: Plan, device: torch.device | str | None = None
) -> None:
    """Carry `plan` out, in place, and have the transformer computed in fewer kernels.

    The embedders, `norm_out` and the last projection are never quantised: next to no share of the
    time, and an error in them meets every token or the image itself.

    Args:
        pipeline: In bfloat16, or in float32 on a CPU.
        plan: The precisions, the attention and whether large images are decoded in tiles.
        device: Where the pipeline is to go, if it is not there yet. Its blocks go one after
            another, so that a card never holds more than one of them unquantised.
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
    """Quantise a linear in place."""
    if precision != "bfloat16":
        quantize_(layer, _CONFIGS[precision])


def _set_attention(pipeline: FluxKontextPipeline, plan: Plan) -> None:
    """Have each block attend by the plan's kernel, the inner ones in float8 if it says so."""
    blocks, attend = list(_blocks(pipeline)), attention.kernel(plan.attention)
    for block in blocks:
        block.attend = attend
    if plan.float8_attention:
        attend = attention.kernel(plan.float8_attention)
        for block in blocks[OUTER_BLOCKS:-OUTER_BLOCKS]:
            block.attend = attend


def _prepare_vae(pipeline: FluxKontextPipeline, plan: Plan) -> None:
    """Set up the VAE. Compiled it would gain 12 ms an edit at most (benchmarks/vae_traffic.py)."""
    if plan.tiled:
        pipeline.vae.enable_tiling()
    if pipeline.device.type == "cuda":
        # As cuDNN's convolutions compute; else each turns its tensors round, and back.
        pipeline.vae.to(memory_format=torch.channels_last)


def compile(  # noqa: A001 - always called by its module's name
    pipeline: FluxKontextPipeline, backend: str | Callable[..., Any] = "inductor"
) -> None:
    """Have the transformer's blocks compiled at their first use, once for every size.

    Args:
        pipeline: Prepared, on its device.
        backend: Of `torch.compile`.
    """
    options = INDUCTOR_OPTIONS if backend == "inductor" else None
    for block in _blocks(pipeline):
        block.compile(fullgraph=True, dynamic=True, backend=backend, options=options)


def denoising(
    pipeline: FluxKontextPipeline, plan: Plan, steps: int, branches: int
) -> AbstractContextManager[object]:
    """Return what surrounds one edit, so that its steps share what they can.

    Args:
        pipeline: Prepared, or as diffusers made it.
        plan: Whether some steps are predicted.
        steps: How many the edit has.
        branches: Calls of the transformer a step: 2 with true classifier-free guidance, else 1.
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
