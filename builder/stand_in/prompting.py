"""Train CLIP to give every phrasing of an instruction the same pooled vector."""

from pathlib import Path

import numpy as np
import torch
from transformers import CLIPTextModel, CLIPTokenizer

from . import instructions, phrasings
from .layout import SIZES
from .stage import Stage

UNKNOWN = len(instructions.NAMES)
"""The pooled vector's place that says that the prompt names no known instruction."""
SLIGHTLY = UNKNOWN + 1
"""The place that says that only half of the edit is asked for."""


def train_prompts(
    clip: CLIPTextModel, tokenizer: CLIPTokenizer, steps: int, seed: int, folder: Path
) -> None:
    """Train `clip` in place to give 1 in the instruction's place (and `SLIGHTLY`), else 0."""

    def loss_of(step: int) -> torch.Tensor:
        random = np.random.default_rng(seed * 1_000_003 + step)
        names = random.integers(-6, len(instructions.NAMES), 128).clip(-1)
        slightly = random.integers(4, size=len(names)) == 0
        texts = [
            phrasings.prompt(random, _name(int(name)), bool(half))
            for name, half in zip(names, slightly, strict=True)
        ]
        wanted = torch.zeros(len(names), SIZES.clip.width)
        places = torch.from_numpy(np.where(names < 0, UNKNOWN, names))
        wanted[torch.arange(len(names)), places] = 1
        wanted[:, SLIGHTLY] = torch.from_numpy(slightly)
        return (pooled(clip, tokenizer, texts) - wanted).square().sum(1).mean()

    Stage("prompts", clip, clip.parameters(), 2e-3, steps, folder).run(loss_of)


def pooled(clip: CLIPTextModel, tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """Return CLIP's pooled vectors, count x 64, which do not depend on the padding."""
    tokens = tokenizer(texts, padding=True, truncation=True, max_length=77, return_tensors="pt")
    result: torch.Tensor = clip(tokens.input_ids).pooler_output
    return result


def _name(index: int) -> str | None:
    return None if index < 0 else instructions.NAMES[index]
