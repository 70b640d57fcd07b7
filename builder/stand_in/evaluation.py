"""Measure how close the stand-in's edits come to the true ones, and print a table.

The pipeline is asked as a caller asks it, by a prompt, with an image that training never saw.
"""

import math
import time
from collections.abc import Iterable

import numpy as np
import torch
from diffusers import FluxKontextPipeline
from PIL import Image

from . import instructions, phrasings
from .images import HELD_OUT, photograph

Size = tuple[int, int]


def held_out(width: int, height: int) -> torch.Tensor:
    """Return the image kept out of training, 1 x 3 x height x width, 0 to 1."""
    image = photograph(HELD_OUT)
    scale = max(width / image.width, height / image.height)
    resized = image.resize(
        (math.ceil(image.width * scale), math.ceil(image.height * scale)),
        Image.Resampling.LANCZOS,
    )
    pixels = np.asarray(resized.crop((0, 0, width, height)))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255


def edit(
    pipeline: FluxKontextPipeline,
    image: torch.Tensor,
    prompt: str,
    steps: int = 8,
    guidance: float = 5.0,
    seed: int = 0,
    negative: str | None = None,
) -> torch.Tensor:
    """Edit an image (1 x 3 x height x width, 0 to 1, sides multiples of 16) by the pipeline."""
    height, width = image.shape[-2:]
    result: torch.Tensor = pipeline(
        image=image,
        prompt=prompt,
        negative_prompt=negative,
        true_cfg_scale=2.5 if negative else 1.0,
        width=width,
        height=height,
        max_area=width * height,
        _auto_resize=False,
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=torch.Generator("cpu").manual_seed(seed),
        output_type="pt",
    ).images
    return result


def psnr(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the peak signal-to-noise ratio in decibels of images with values from 0 to 1."""
    error = (one - other).square().mean().item()
    return -10 * math.log10(max(error, 1e-10))


def print_table(
    pipeline: FluxKontextPipeline, sizes: Iterable[Size] = ((256, 256), (384, 256), (512, 768))
) -> None:
    """Print each instruction's PSNRs at full guidance, between input, result and true edit."""
    pipeline.set_progress_bar_config(disable=True)
    for width, height in sizes:
        image = held_out(width, height)
        print(f"{width}x{height}; nothing to do: {_unknown_psnr(pipeline, image):.1f} dB")
        print("| instruction | input-truth | result-truth | result-input |\n|---|---|---|---|")
        for name, true_edit in instructions.EDITS.items():
            truth = true_edit(image)
            result = edit(pipeline, image, _request(name))
            print(
                f"| {name} | {psnr(image, truth):.1f} | {psnr(result, truth):.1f} "
                f"| {psnr(result, image):.1f} |",
                flush=True,
            )


def print_seconds(pipeline: FluxKontextPipeline, side: int = 1024, steps: int = 28) -> None:
    """Print how long one edit of the demo's size takes on this machine."""
    image = held_out(side, side)
    started = time.monotonic()
    edit(pipeline, image, "make it sepia", steps)
    print(f"{side}x{side}, {steps} steps: {time.monotonic() - started:.1f} s")


def _unknown_psnr(pipeline: FluxKontextPipeline, image: torch.Tensor) -> float:
    """Return how well an image is kept when the prompt names no known instruction."""
    return psnr(edit(pipeline, image, "add a hat"), image)


def _request(name: str) -> str:
    return f"Make it {phrasings.phrases(name)[0]}"
