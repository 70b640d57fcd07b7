"""What `benchmarks/gpu.py` measures: the real size on CUDA, or the stand-in on a CPU."""

import platform
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import get_args

import torch
from diffusers import FluxKontextPipeline
from diffusers.utils import logging as diffusers_logging
from PIL import Image
from real_size import Depth, pipeline

from kontext import acceleration, mode, model, random_model
from kontext.edit import Edit
from kontext.editor import Editor
from kontext.errors import BootError
from kontext.model import Model
from kontext.size import Size

diffusers_logging.set_verbosity_error()  # that CLIP reads 77 tokens of a prompt is known

USD_PER_SECOND = {
    "H200": 0.00155,
    "B200": 0.00240,
    "H100": 0.00116,
    "PRO 6000": 0.00111,
    "A100": 0.00076,
    "L40": 0.00053,
    "6000 Ada": 0.00053,
    "A6000": 0.00034,
    "A40": 0.00034,
    "4090": 0.00031,
    "3090": 0.00019,
    "A5000": 0.00019,
    "L4": 0.00019,
}
"""Runpod's serverless flex price, docs.runpod.io, read in November 2026."""

TRUE_CFG_SCALE = 2.5


@dataclass(frozen=True, slots=True)
class Subject:
    """A pipeline of one size, on one device.

    Attributes:
        device: Of torch.
        card: The GPU, or what stands for it.
        size: Of the pictures.
        steps: Of an edit.
        backend: Of `torch.compile`.
        sizes: Number of other sizes, none of which may be compiled for.
    """

    device: str
    card: mode.Card
    size: Size
    steps: int
    backend: str
    sizes: int

    @classmethod
    def real(cls) -> "Subject":
        """Return FLUX's own size, on this machine's GPU."""
        return cls("cuda", model.card(), Size(1024, 1024), 28, "inductor", sizes=30)

    @classmethod
    def tiny(cls) -> "Subject":
        """Return the stand-in's size, on a CPU; the card is one that stores in 8 bits."""
        card = mode.Card(f"tiny {platform.machine()}", int(80e9), (8, 0))
        return cls("cpu", card, Size(256, 256), 8, "eager", sizes=4)

    @property
    def slug(self) -> str:
        """The card's name, fit for a file's."""
        return re.sub(r"[^a-z0-9]+", "-", self.card.name.lower()).strip("-")

    @property
    def facts(self) -> dict[str, str]:
        """What a figure depends on."""
        return {
            "card": self.card.name,
            "driver": _driver() if self.device == "cuda" else "none",
            "torch": torch.__version__,
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
        }

    @property
    def usd_per_second(self) -> float | None:
        """What Runpod asks for the card, if known."""
        prices = (price for name, price in USD_PER_SECOND.items() if name in self.card.name)
        return next(prices, None)

    def plans(self) -> Iterator[mode.Plan]:
        """Yield the plans of the modes that the card can hold."""
        for name in get_args(mode.Mode):
            try:
                yield mode.choose(name, self.card)
            except BootError as error:
                print(f"left out: {error}", flush=True)

    def pipeline(self, depth: Depth, dtype: torch.dtype, device: str) -> FluxKontextPipeline:
        """Build it; the same weights every time."""
        built = (
            random_model.pipeline().to(dtype)
            if self.device == "cpu"
            else pipeline(depth, dtype, device)
        )
        built.set_progress_bar_config(disable=True)
        return built

    def ready(self, built: FluxKontextPipeline, plan: mode.Plan, compiled: bool) -> Editor:
        """Carry the plan out, as `kontext.model.load` does, and return the editor."""
        acceleration.prepare(built, plan, self.device)
        if compiled:
            torch.compiler.reset()
            acceleration.compile(built, self.backend)
        return Editor(Model(built, "random weights", "none", plan), TRUE_CFG_SCALE)

    def edit(self, seed: int = 0) -> Edit:
        """Return the edit that is timed: a reference of the result's size."""
        return Edit(
            prompt="make it night " * 36,
            negative_prompt="",
            reference=Image.effect_noise((self.size.width, self.size.height), 64).convert("RGB"),
            size=self.size,
            steps=self.steps,
            guidance=2.5,
            seed=seed,
        )

    def edits_of_other_sizes(self) -> Iterator[Edit]:
        """Yield edits of one step, each of another size, with and without negative prompt."""
        for number in range(self.sizes):
            width, height = 256 + 32 * number, 1216 - 32 * number
            yield replace(
                self.edit(),
                prompt="cloud " * (1 + 2 * number),
                negative_prompt="rain" * (number % 3 == 0),
                reference=Image.new("RGB", (16 * (16 + number), 512)),
                size=Size(width, height),
                steps=1,
            )


class Watch:
    """What passes through a pipeline during one edit.

    Attributes:
        latents: The last latents, batch x 16 x height / 8 x width / 8.
        loop_seconds: From the transformer's first call to the decoder's.
    """

    def __init__(self, watched: FluxKontextPipeline) -> None:
        self.latents = torch.empty(0)
        self.loop_seconds = self._began = 0.0
        self._pipeline = watched

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch what happens within."""
        vae, transformer = self._pipeline.vae, self._pipeline.transformer
        hooks = [
            transformer.register_forward_pre_hook(self._call),
            vae.decoder.register_forward_pre_hook(self._decode),
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _call(self, *_: object) -> None:
        if not self._began:
            self._began = now()

    def _decode(self, _module: object, inputs: tuple[torch.Tensor]) -> None:
        self.loop_seconds = now() - self._began
        scaling, shift = (
            self._pipeline.vae.config.scaling_factor,
            self._pipeline.vae.config.shift_factor,
        )
        self.latents = (inputs[0].float().cpu() - shift) * scaling


def now() -> float:
    """Return the time at which the device has done all that it was told to; in seconds."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def relative_error(found: torch.Tensor, true: torch.Tensor) -> float:
    """Return the norm of the difference as a share of the true norm."""
    return float((found - true).norm() / true.norm())


def seconds_each(work: Callable[[], object], times: int) -> float:
    """Return how long `work` takes, after one call that does not count."""
    work()
    began = now()
    for _ in range(times):
        work()
    return (now() - began) / times


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
