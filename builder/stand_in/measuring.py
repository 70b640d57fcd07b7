"""The table of what the stand-in learnt: each instruction's distance from its true edit.

Asks the pipeline as a caller would, with words, on a picture that training never saw.
"""

import math
import time
from collections.abc import Iterable

import instructions
import numpy as np
import phrasings
import torch
from diffusers import FluxKontextPipeline
from pictures import HELD_OUT, photograph
from PIL import Image

Size = tuple[int, int]


def held_out(width: int, height: int) -> torch.Tensor:
    """Return the picture kept for measuring, 1 x 3 x height x width, 0 to 1."""
    picture = photograph(HELD_OUT)
    scale = max(width / picture.width, height / picture.height)
    resized = picture.resize(
        (math.ceil(picture.width * scale), math.ceil(picture.height * scale)),
        Image.Resampling.LANCZOS,
    )
    pixels = np.asarray(resized.crop((0, 0, width, height)))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255


def edit(
    pipeline: FluxKontextPipeline,
    picture: torch.Tensor,
    prompt: str,
    steps: int = 8,
    guidance: float = 5.0,
    seed: int = 0,
    negative: str | None = None,
) -> torch.Tensor:
    """Return the pipeline's edit of a picture (1 x 3 x height x width, sides multiples of 16)."""
    height, width = picture.shape[-2:]
    result: torch.Tensor = pipeline(
        image=picture,
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
    """Return the peak signal-to-noise ratio in decibels of pictures, 0 to 1."""
    error = (one - other).square().mean().item()
    return -10 * math.log10(max(error, 1e-10))


def print_table(
    pipeline: FluxKontextPipeline, sizes: Iterable[Size] = ((256, 256), (384, 256), (512, 768))
) -> None:
    """Print PSNRs: input to truth, result to truth, result to input, at full guidance."""
    pipeline.set_progress_bar_config(disable=True)
    for width, height in sizes:
        picture = held_out(width, height)
        print(f"{width}x{height}; nothing to do: {_kept(pipeline, picture):.1f} dB")
        print("| instruction | input-truth | result-truth | result-input |\n|---|---|---|---|")
        for name, true_edit in instructions.EDITS.items():
            truth = true_edit(picture)
            result = edit(pipeline, picture, _request(name))
            print(
                f"| {name} | {psnr(picture, truth):.1f} | {psnr(result, truth):.1f} "
                f"| {psnr(result, picture):.1f} |",
                flush=True,
            )


def print_seconds(pipeline: FluxKontextPipeline, side: int = 1024, steps: int = 28) -> None:
    """Print how long one edit of the demo's size takes here."""
    picture = held_out(side, side)
    started = time.monotonic()
    edit(pipeline, picture, "make it sepia", steps)
    print(f"{side}x{side}, {steps} steps: {time.monotonic() - started:.1f} s")


def _kept(pipeline: FluxKontextPipeline, picture: torch.Tensor) -> float:
    return psnr(edit(pipeline, picture, "add a hat"), picture)


def _request(name: str) -> str:
    return f"Make it {phrasings.phrases(name)[0]}"
