"""A loaded pipeline -> the same, quicker: quantised, compiled, with steps predicted.

Knows how a plan is carried out, and nothing of cards, requests or files. Projections are never
fused: a LoRA for the parts would be dropped without a word.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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

from kontext.mode import Plan, Precision

_CONFIGS: dict[Precision, AOBaseConfig] = {
    "float8": Float8DynamicActivationFloat8WeightConfig(granularity=PerRow()),
    "int8": Int8DynamicActivationInt8WeightConfig(granularity=PerRow()),
    "float8 weights": Float8WeightOnlyConfig(),
    "int8 weights": Int8WeightOnlyConfig(granularity=PerRow()),
}

_FIRST_STEPS = 3
_LAST_STEPS = 3
_INTERVAL = 3
"""The first steps decide the composition, the last the details; between them one of three is
computed. So does the `go_fast` of Replicate's worker for this model, for 14 of its 30 steps."""

_Known = tuple[float, torch.Tensor]
"""A noise level and the transformer's output there."""


def quantise(
    pipeline: FluxKontextPipeline, plan: Plan, device: torch.device | str | None = None
) -> None:
    """Quantise the linears that `plan` names, one after another, in place.

    The embedders, `norm_out` and the last projection stay: next to no share of the time, and an
    error in them meets every token or the picture itself.

    Args:
        pipeline: In bfloat16.
        plan: The precisions.
        device: Where each layer is quantised, and stays; where it is, if not given. So a card
            never holds more of the transformer in bfloat16 than one layer.
    """
    for layer, precision in _layers(pipeline, plan):
        if precision != "bfloat16":
            quantize_(layer.to(device=device), _CONFIGS[precision])


def _layers(pipeline: FluxKontextPipeline, plan: Plan) -> Iterator[tuple[nn.Linear, Precision]]:
    for blocks in (
        pipeline.transformer.transformer_blocks,
        pipeline.transformer.single_transformer_blocks,
    ):
        for name, layer in _linears(blocks):
            yield layer, plan.modulation if ".norm" in name else plan.transformer
    for _, layer in _linears(pipeline.text_encoder_2):
        yield layer, plan.text_encoder


def _linears(module: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear):
            yield name, layer


def prepare(pipeline: FluxKontextPipeline, plan: Plan) -> None:
    """Set what changes nothing but rounding, for the device where the pipeline is."""
    if plan.attention != "native":
        pipeline.transformer.set_attention_backend(plan.attention)
    if plan.tiled:
        pipeline.vae.enable_tiling()
    if pipeline.device.type == "cuda":
        # As cuDNN's convolutions compute; else each turns its tensors round, and back.
        pipeline.vae.to(memory_format=torch.channels_last)


def compile(  # noqa: A001 - always called by its module's name
    pipeline: FluxKontextPipeline, backend: str = "inductor"
) -> None:
    """Have the transformer's blocks compiled at their first use, once for every size.

    Args:
        pipeline: On its device, quantised.
        backend: Of `torch.compile`.
    """
    pipeline.transformer.compile_repeated_blocks(fullgraph=True, dynamic=True, backend=backend)


@contextmanager
def step_cache(pipeline: FluxKontextPipeline, steps: int, branches: int) -> Iterator[None]:
    """Within, the transformer's output is predicted at the steps that `is_computed` leaves out.

    diffusers' own hooks sit in every block, where they break the compiled graphs, and hold one
    state for both branches of guidance and from one job to the next. Here all state belongs to the
    edit, and ends with it, however it ends.

    Args:
        pipeline: Whatever its precision, compiled or not.
        steps: How many the edit has.
        branches: Calls of the transformer a step: 2 with true classifier-free guidance, else 1.
    """
    pipeline.transformer.forward = _StepCache(pipeline, steps, branches)
    try:
        yield
    finally:
        del pipeline.transformer.forward


class _StepCache:
    """The transformer's forward pass of one edit, in which some steps are predicted.

    A Taylor expansion of first order, of the output as a whole (TaylorSeer, arXiv 2503.06923;
    diffusers calls that its lite mode), but in the noise level: the schedule's steps are uneven.
    """

    def __init__(self, pipeline: FluxKontextPipeline, steps: int, branches: int) -> None:
        self._scheduler = pipeline.scheduler
        self._compute: Callable[..., tuple[torch.Tensor]] = pipeline.transformer.forward
        self._steps = steps
        self._known = [deque[_Known](maxlen=2) for _ in range(branches)]
        self._calls = 0
        self._sigmas: list[float] = []

    def __call__(self, *inputs: Any, **named: Any) -> tuple[torch.Tensor]:  # noqa: ANN401
        if not self._sigmas:  # one wait for the device, before the first step
            self._sigmas = self._scheduler.sigmas.tolist()
        step, branch = divmod(self._calls, len(self._known))
        self._calls += 1
        sigma, known = self._sigmas[step], self._known[branch]
        if not is_computed(step, self._steps):
            return (_predict(known, sigma),)
        output = self._compute(*inputs, **named)
        known.append((sigma, output[0]))
        return output


def is_computed(step: int, steps: int) -> bool:
    """Tell whether a step, counted from 0, of so many is computed; of 28 it is 13."""
    from_first, from_last = step - _FIRST_STEPS, steps - _LAST_STEPS - step
    return from_first < 0 or from_last <= 0 or from_first % _INTERVAL == _INTERVAL - 1


def _predict(known: Sequence[_Known], sigma: float) -> torch.Tensor:
    """Continue the line through the last two outputs."""
    (before, first), (last, second) = known
    distance = (sigma - before) / (last - before)
    return torch.lerp(first.float(), second.float(), distance).to(second.dtype)
