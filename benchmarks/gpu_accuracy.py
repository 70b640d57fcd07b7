"""How far each mode is from float32, at the real width and a reduced depth, same weights."""

import copy
from typing import Any

import torch
from diffusers import FluxKontextPipeline
from gpu_subject import Subject, relative_error
from real_size import REDUCED

from kontext import acceleration
from kontext.mode import EXACT, Plan
from kontext.warm_up import warm_up

Inputs = dict[str, Any]

_GUIDANCE = 2.496
"""The transformer embeds 1000 times this: 2496, which bfloat16 has; it would make 2496 of 2500."""


def accuracy(subject: Subject) -> list[dict[str, Any]]:
    """Compare one step of the transformer, and the final latents, with float32."""
    true = subject.pipeline(REDUCED, torch.float32, subject.device)
    inputs, true_latents = _edit(subject, true, EXACT)
    true_step = _step(true, inputs)
    true.to("cpu")
    found = []
    for name, plan in [("eager", EXACT), *((plan.mode, plan) for plan in subject.plans())]:
        print(f"{name}: {plan}", flush=True)
        rounded = copy.deepcopy(true).to(torch.bfloat16)
        warm_up(subject.ready(rounded, plan, compiled=name != "eager"))
        _, latents = _edit(subject, rounded, plan)
        found.append(
            {
                "mode": name,
                "step_error_float32": relative_error(_step(rounded, inputs), true_step),
                "latents_error_float32": relative_error(latents, true_latents),
            }
        )
    return found


def _edit(
    subject: Subject, pipeline: FluxKontextPipeline, plan: Plan
) -> tuple[Inputs, torch.Tensor]:
    """Return what the transformer is first given, and the final latents.

    Past the editor, which draws the noise in the pipeline's own precision: torch's bfloat16 noise
    is not its float32 noise, rounded. That bfloat16 rounds the noise levels is part of the error.
    """
    edit, size = subject.edit(), subject.size
    noise = torch.randn(1, size.area // 256, 64, generator=torch.Generator().manual_seed(edit.seed))
    calls: list[Inputs] = []
    hook = pipeline.transformer.register_forward_pre_hook(
        lambda _module, _inputs, named: calls.append(named), with_kwargs=True
    )
    with acceleration.denoising(pipeline, plan, edit.steps, 1):
        latents = pipeline(
            image=edit.reference,
            prompt=edit.prompt,
            width=size.width,
            height=size.height,
            max_area=size.area,
            _auto_resize=False,
            num_inference_steps=edit.steps,
            guidance_scale=_GUIDANCE,
            latents=noise.to(subject.device, pipeline.transformer.dtype),
            output_type="latent",
        ).images
    hook.remove()
    return calls[0], latents.float().cpu()


@torch.no_grad()
def _step(pipeline: FluxKontextPipeline, inputs: Inputs) -> torch.Tensor:
    """Return the transformer's output for inputs of another precision."""
    rounded = {
        name: value.to(pipeline.transformer.dtype)
        if isinstance(value, torch.Tensor) and value.is_floating_point() and "_ids" not in name
        else value
        for name, value in inputs.items()
    }
    output: torch.Tensor = pipeline.transformer(**rounded)[0]
    return output.float().cpu()
