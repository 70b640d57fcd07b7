"""Editors of a tiny pipeline as a plan prepares it, and LoRA weights for it."""

from dataclasses import replace
from typing import Any

import flux_model
import torch
from diffusers import FluxTransformer2DModel

from kontext.inference import acceleration, autoencoder
from kontext.inference.editor import Editor
from kontext.inference.model import Model
from kontext.inference.plan import Plan

FAST = Plan("fast", transformer="int8", text_encoder="int8 weights")
TURBO = replace(FAST, mode="turbo", step_cache=True)


def editor_for(plan: Plan) -> Editor:
    """Return an editor of the tiny pipeline, in bfloat16 and prepared by `plan`."""
    pipeline = flux_model.pipeline().to(torch.bfloat16)
    acceleration.prepare(pipeline, plan)
    autoencoder.postprocess_in_float32(pipeline)
    pipeline.set_progress_bar_config(disable=True)
    return Editor(Model(pipeline, "tiny", "none", plan), true_cfg_scale=2.5)


def pipeline_of(editor: Editor) -> Any:
    """Return the editor's pipeline."""
    return editor._pipeline


def lora(transformer: FluxTransformer2DModel, layer: str) -> dict[str, torch.Tensor]:
    """Return the weights of a LoRA for one linear, by their names in PEFT."""
    linear = transformer.get_submodule(layer)
    generator = torch.Generator().manual_seed(0)
    return {
        f"{layer}.lora_A.weight": torch.randn(4, linear.in_features, generator=generator),
        f"{layer}.lora_B.weight": torch.randn(linear.out_features, 4, generator=generator),
    }
