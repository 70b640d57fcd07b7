"""Compare the project's editor with Black Forest Labs' own code, on the same random weights.

    python -m reference_check.check FOLDER

Both are given the same reference, size, prompt, seed, guidance and number of steps, up to one
megapixel and on the 16-pixel grid, and must give the same final latents, decoded pixels and bytes.
Where the project deviates on purpose, nothing is compared: it scales the reference to the size
asked for where the reference implementation stretches it to one of 17 sizes, shifts the schedule
beyond one megapixel, and rounds bytes where the reference implementation cuts them off.

Prints one line of JSON. The exit status is 0 if both agree and every deliberate fault is seen, 2 if
FOLDER is no checkout, else 1.
"""

import argparse
import copy
import itertools
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from PIL import Image

from kontext.contract.request import EditRequest
from kontext.contract.size import Size
from kontext.images import reference as fitting
from kontext.inference.edit import Edit

from . import pair
from .checkout import ADDRESS, NoCheckoutError, Reference, open_checkout
from .paths import Fault, Ours, Result, Theirs

MAX_ERROR = 1e-4
"""Largest error in float32, as a share of the largest value; another order of summation alone was
seen to give 2e-6."""
MAX_ERROR_RATIO = 1.5
"""Largest ratio of our error to the reference's in bfloat16, both against its float32."""
MAX_LEVELS = 0.51
"""Largest distance of a byte from the reference's pixel: half a level for rounding, and float32's
error."""

PROMPT = "Give the fox a blue scarf"
_SIZES = (Size(256, 256), Size(512, 512), Size(512, 768))
_MANY_STEPS = 28
"""Steps of the longest case, which is run at the smallest size only because it takes long."""
_STEPS_GUIDANCE_SEED = (
    (4, 0.0, 0),
    (4, 2.5, 1234567890123),
    (4, 10.0, 1),
    (_MANY_STEPS, 2.5, 0),
)

Row = dict[str, Any]


def main(arguments: list[str] | None = None) -> int:
    """Compare with the checkout that the command line names, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m reference_check.check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkout", type=Path, help=f"a clone of {ADDRESS}")
    try:
        found = check(open_checkout(parser.parse_args(arguments).checkout))
    except NoCheckoutError as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(found))
    return 0 if found["agrees"] else 1


def check(reference: Reference) -> Row:
    """Return the largest error of each comparison, and whether all are within their bounds."""
    began = time.monotonic()
    built = pair.build(reference)
    with torch.inference_mode():
        text = built.pipeline.encode_prompt(PROMPT, None, device=torch.device("cpu"))[:2]
    theirs = Theirs(reference, built.flux, built.autoencoder, text)
    bfloat16 = _bfloat16(reference, built, text)
    float32 = _float32(Ours(built.pipeline), theirs)
    faults = {fault: _fault_error(theirs, fault) for fault in get_args(Fault)}
    agrees = (
        max(float32["latents"], float32["pixels"]) < MAX_ERROR
        and float32["levels"] < MAX_LEVELS
        and bfloat16["ours"] < MAX_ERROR_RATIO * bfloat16["theirs"]
        and min(faults.values()) > MAX_ERROR
    )
    seconds = round(time.monotonic() - began)
    facts = {"float32": float32, "bfloat16": bfloat16, "faults": faults, "seconds": seconds}
    return {"agrees": agrees, **facts}


def _float32(ours: Ours, theirs: Theirs) -> Row:
    """Return the largest errors over all cases."""
    worst: Row = {"cases": 0, "latents": 0.0, "pixels": 0.0, "levels": 0.0}
    for edit in _edits():
        (mine, delivered), other = ours.edit(edit), theirs.edit(edit, torch.float32)
        row = {
            "latents": _largest_error(mine.latents, other.latents),
            "pixels": _largest_error(mine.pixels, other.pixels),
            "levels": _levels_off(delivered, other),
        }
        print(
            f"{edit.size}, {edit.request.num_inference_steps} steps: {row}",
            file=sys.stderr,
            flush=True,
        )
        worst = {name: max(worst[name], error) for name, error in row.items()} | {
            "cases": worst["cases"] + 1
        }
    return worst


def _bfloat16(
    reference: Reference, built: pair.Pair, text: tuple[torch.Tensor, torch.Tensor]
) -> Row:
    """Return the mean error of each side in bfloat16, against the reference in float32.

    All start from the same noise.
    """
    low = torch.bfloat16
    ours = Ours(copy.deepcopy(built.pipeline).to(low))
    theirs = Theirs(reference, copy.deepcopy(built.flux).to(low), built.autoencoder, text)
    truth = Theirs(reference, built.flux, built.autoencoder, text)
    errors = []
    for edit in itertools.islice(_edits(), len(_STEPS_GUIDANCE_SEED)):
        true = truth.edit(edit, low).latents
        sides = (ours.edit(edit)[0].latents, theirs.edit(edit, low).latents)
        errors.append([_mean_error(side, true) for side in sides])
    mine, other = np.mean(errors, axis=0)
    return {"cases": len(errors), "ours": float(mine), "theirs": float(other)}


def _fault_error(theirs: Theirs, fault: Fault) -> float:
    """Return how far a deliberate fault moves the latents."""
    edit = next(_edits())
    sound = theirs.edit(edit, torch.float32).latents
    return _largest_error(theirs.edit(edit, torch.float32, fault).latents, sound)


def _edits() -> Iterator[Edit]:
    """Yield edits whose reference has the aspect of the result, and edits with another aspect."""
    for size, same_aspect, (steps, guidance, seed) in itertools.product(
        _SIZES, (True, False), _STEPS_GUIDANCE_SEED
    ):
        if steps == _MANY_STEPS and size != _SIZES[0]:
            continue
        sides = (size.width * 5 // 4, size.height * 5 // 4) if same_aspect else (700, 430)
        fitted = fitting.fit(_image(*sides), size)
        request = EditRequest(
            prompt=PROMPT, image="data:,", num_inference_steps=steps, guidance=guidance
        )
        yield Edit(request, fitted, size, size, seed)


def _image(width: int, height: int) -> Image.Image:
    """Return an image of waves and noise, always the same."""
    y, x = np.mgrid[0:height, 0:width]
    waves = np.stack([np.sin(x / 23), np.cos(y / 31), np.sin((x + y) / 47)], axis=-1)
    noise = np.random.default_rng(3).normal(0, 12, waves.shape)
    return Image.fromarray(np.clip(128 + 100 * waves + noise, 0, 255).astype(np.uint8))


def _largest_error(found: torch.Tensor, true: torch.Tensor) -> float:
    """Return the largest difference as a share of the largest true value."""
    return float((found - true).abs().max() / true.abs().max())


def _mean_error(found: torch.Tensor, true: torch.Tensor) -> float:
    """Return the norm of the difference as a share of the true norm."""
    return float((found - true).norm() / true.norm())


def _levels_off(delivered: Image.Image, theirs: Result) -> float:
    """Return the largest distance of a delivered byte from the reference's pixel, in levels."""
    exact = (theirs.pixels.clamp(-1, 1).permute(1, 2, 0).numpy() + 1) * 127.5
    return float(np.abs(np.asarray(delivered) - exact).max())


if __name__ == "__main__":
    sys.exit(main())
