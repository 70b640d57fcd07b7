"""Define what `benchmarks/gpu.py` measures: the full size on CUDA, or a tiny one on a CPU."""

import platform
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import flux_model
import numpy as np
import torch
from diffusers import FluxKontextPipeline
from diffusers.utils import logging as diffusers_logging
from flux_sizes import FULL, TINY, Sizes
from gpu_work import PROMPT_TOKENS
from PIL import Image
from torch.nn.attention import restore_flash_attention_impl

from kontext.contract.request import EditRequest
from kontext.contract.size import Size
from kontext.inference import acceleration, autoencoder, mode, model
from kontext.inference.edit import Edit
from kontext.inference.editor import Editor
from kontext.inference.model import Model
from kontext.inference.plan import EXACT, Plan
from kontext.inference.warm_up import warm_up

diffusers_logging.set_verbosity_error()  # it warns that CLIP reads only 77 tokens

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
"""Runpod's serverless flex price in dollars per second: docs.runpod.io, read in November 2026."""

TRUE_CFG_SCALE = 2.5

_OTHER_SIZES = (
    Size(1248, 832),
    Size(832, 1248),
    Size(512, 512),
    Size(1392, 752),
    Size(1000, 600),
    Size(768, 1344),
)
"""The usual aspects, a small image, and sides off the 16-pixel grid."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A pipeline of one size on one device, and the edit that is timed.

    Attributes:
        device: torch's device.
        card: The GPU, or an invented one on a CPU.
        size: Size of the result and the reference.
        steps: Steps of an edit.
        backend: Backend of `torch.compile`.
        other_sizes: Sizes for which nothing may be compiled again.
        shape: Tokens, width and heads of the transformer in an edit.
    """

    device: str
    card: mode.Card
    size: Size
    steps: int
    backend: str
    other_sizes: tuple[Size, ...]
    shape: tuple[int, int, int]

    @classmethod
    def real(cls) -> "Subject":
        """Return the full size on this machine's GPU."""
        size, sizes = Size(1024, 1024), FULL.transformer
        shape = (PROMPT_TOKENS + 2 * 64 * 64, sizes.width, sizes.heads)
        return cls("cuda", model.card(), size, 28, "inductor", _OTHER_SIZES, shape)

    @classmethod
    def tiny(cls) -> "Subject":
        """Return a tiny size on a CPU, with a card on which weights are stored in 8 bits."""
        card = mode.Card(f"tiny {platform.machine()}", int(80e9), (8, 0))
        others = Size(96, 160), Size(131, 77)
        return cls("cpu", card, Size(128, 128), 8, "eager", others, (128, 64, 2))

    @property
    def machine(self) -> dict[str, str]:
        """What every figure depends on: card, driver and versions."""
        return {
            "card": self.card.name,
            "driver": _driver() if self.device == "cuda" else "none",
            "torch": torch.__version__,
            "python": platform.python_version(),
            **{package: version(package) for package in ("diffusers", "torchao", "transformers")},
        }

    @property
    def usd_per_second(self) -> float | None:
        """Runpod's price of the card, if known."""
        prices = (price for name, price in USD_PER_SECOND.items() if name in self.card.name)
        return next(prices, None)

    def pipeline(self, sizes: Sizes, dtype: torch.dtype, device: str) -> FluxKontextPipeline:
        """Build a pipeline of these sizes, or a tiny one on a CPU; the same weights every time."""
        if self.device == "cpu":
            built = flux_model.pipeline(TINY).to(dtype)
        else:
            built = flux_model.pipeline(sizes, dtype, device)
        built.set_progress_bar_config(disable=True)
        return built

    def ready(self, built: FluxKontextPipeline, plan: Plan | None) -> Editor:
        """Prepare and compile as a worker does, or without a plan leave diffusers as it is."""
        restore_flash_attention_impl()  # an earlier plan may have changed it for the process
        torch.compiler.reset()
        if plan:
            acceleration.prepare(built, plan, self.device)
            acceleration.compile(built, self.backend)
        built.to(self.device)
        autoencoder.postprocess_in_float32(built)
        return Editor(Model(built, "random weights", "none", plan or EXACT), TRUE_CFG_SCALE)

    def warm_up(self, editor: Editor) -> None:
        """Warm up as a worker does, on a CPU with smaller images."""
        if self.device == "cuda":
            warm_up(editor)
            return
        for negative_prompt in "", "a cat":
            once = self.edit(num_inference_steps=1, negative_prompt=negative_prompt)
            editor.edit(once, lambda _: None)

    def edit(self, **fields: Any) -> Edit:  # noqa: ANN401 - any field of the contract
        """Return the edit that is timed, always the same, with a reference of the result's size.

        Args:
            fields: Fields of the contract that replace those of the timed edit.
        """
        sides = self.size.height, self.size.width, 3
        noise = np.random.default_rng(0).integers(0, 256, sides, dtype=np.uint8)
        timed = {
            "prompt": "make it night " * 36,
            "image": "data:,",
            "num_inference_steps": self.steps,
            "guidance": 2.5,
        }
        request = EditRequest(**timed | fields)
        return Edit(request, Image.fromarray(noise), self.size, self.size, seed=0)

    def edits_of_other_sizes(self) -> Iterator[Edit]:
        """Yield edits of one step in other sizes, with and without a negative prompt."""
        for number, size in enumerate(self.other_sizes):
            edit = self.edit(
                prompt="cloud " * (1 + 2 * number),
                negative_prompt="rain" * (number % 3 == 0),
                num_inference_steps=1,
            )
            reference = Image.new("RGB", (16 * (5 + number), 16 * (8 + number)))
            yield replace(edit, reference=reference, size=size, generated=size)


def _driver() -> str:
    if not shutil.which("nvidia-smi"):
        return "unknown"
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
