"""Observe a pipeline during one edit, by hooks that do not change the result."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from diffusers import FluxKontextPipeline


class Watch:
    """What hooks saw in a pipeline during one edit.

    Attributes:
        latents: Last latents, batch x 16 x height / 8 x width / 8, float32, on the CPU.
        inputs: Inputs of the transformer's first call, by name.
        output: Output of the transformer's first call, batch x tokens x 64.
        computed: Number of transformer calls that were computed and not predicted.
        phases: Seconds before the denoising loop, in it and after it.
    """

    def __init__(self, watched: FluxKontextPipeline) -> None:
        self.latents = self.output = torch.empty(0)
        self.inputs: dict[str, Any] = {}
        self.computed = 0
        self.phases: dict[str, float] = {}
        self._pipeline = watched
        self._last = 0.0

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Observe the edit that runs within the block."""
        vae, transformer = self._pipeline.vae, self._pipeline.transformer
        self._last = now()
        with ExitStack() as stack:
            for hook in (
                transformer.register_forward_pre_hook(self._call, with_kwargs=True),
                transformer.register_forward_hook(self._return),
                transformer.x_embedder.register_forward_pre_hook(self._compute),
                vae.decoder.register_forward_pre_hook(self._decode),
            ):
                stack.callback(hook.remove)
            yield
        self._end_phase("after")

    def _call(self, _module: object, _inputs: object, named: dict[str, Any]) -> None:
        if not self.inputs:
            self._end_phase("before")
            self.inputs = named

    def _return(self, _module: object, _inputs: object, output: tuple[torch.Tensor]) -> None:
        if not self.output.numel():
            self.output = output[0].clone()

    def _compute(self, *_: object) -> None:
        self.computed += 1

    def _decode(self, _module: object, inputs: tuple[torch.Tensor]) -> None:
        self._end_phase("steps")
        vae = self._pipeline.vae.config
        self.latents = (inputs[0].float().cpu() - vae.shift_factor) * vae.scaling_factor

    def _end_phase(self, name: str) -> None:
        moment = now()
        self.phases[name] = moment - self._last
        self._last = moment


def now() -> float:
    """Wait until the device is idle, and return the time in seconds."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def relative_error(found: torch.Tensor, true: torch.Tensor) -> float:
    """Return the norm of the difference as a share of the true norm."""
    return float((found - true).norm() / true.norm())
