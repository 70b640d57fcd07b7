"""Measure from process start to first image: `handler.py` itself, beside plain `from_pretrained`.

The checkpoint of 34 GB is written to disk and removed from the page cache before each start. Ours
starts twice, first with an empty COMPILE_CACHE and then with what the first start left there.
Reading the weights is also timed alone, because it depends on the disk.
"""

import base64
import gc
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from flux_sizes import FULL
from gpu_subject import Subject
from PIL import Image

from kontext.inference.weights import Weights

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"

MIN_SIDE = 256
"""Shortest side that a worker delivers."""

PLAIN = """
import sys, torch
from diffusers import FluxKontextPipeline
from PIL import Image
path, device, steps, side = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
pipeline = FluxKontextPipeline.from_pretrained(path, dtype=torch.bfloat16).to(device)
image = Image.new("RGB", (side, side))
found = pipeline(image=image, prompt="x", width=side, height=side, max_area=side * side,
                 num_inference_steps=steps, _auto_resize=False).images[0]
found.save(sys.argv[5])
"""


def boot(subject: Subject) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield the seconds of each start: ours first, with a cold compile cache before a warm one."""
    BUILD.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="gpu-boot-", dir=BUILD) as place:
        scratch = Path(place)
        checkpoint = _checkpoint(subject, scratch)
        starts: dict[str, Callable[[], float]] = {
            "ours, cold cache": lambda: _ours(subject, checkpoint, scratch, "first"),
            "ours, warm cache": lambda: _ours(subject, checkpoint, scratch, "second"),
            "reading alone": lambda: _reading(checkpoint),
            "plain from_pretrained": lambda: _plain(subject, checkpoint, scratch),
        }
        for name, start in starts.items():
            yield "boot", name, {"seconds": start()}


def _checkpoint(subject: Subject, scratch: Path) -> Path:
    """Write the checkpoint, and free the memory that building it took."""
    checkpoint = scratch / "FLUX.1-Kontext-dev"
    subject.pipeline(FULL, torch.bfloat16, subject.device).save_pretrained(checkpoint)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return checkpoint


def _reading(checkpoint: Path) -> float:
    """Return the seconds of reading the weights as the worker does, and nothing else."""
    files = [str(path) for path in Weights(checkpoint, "").files]
    return _start(["-m", "kontext.startup.page_cache", *files], checkpoint, os.environ.copy())


def _plain(subject: Subject, checkpoint: Path, scratch: Path) -> float:
    """Return the seconds of a plain program's start and first image."""
    arguments = checkpoint, subject.device, subject.steps, subject.size.width, scratch / "x.png"
    return _start(["-c", PLAIN, *map(str, arguments)], checkpoint, os.environ.copy())


def _ours(subject: Subject, checkpoint: Path, scratch: Path, start: str) -> float:
    """Return the seconds of the worker's start and first image."""
    environment = {
        **os.environ,
        "MODEL_PATH": str(checkpoint),
        "STAND_IN": "safety,bucket" if subject.device == "cuda" else "model,safety,bucket",
        "COMPILE_CACHE": str(scratch / "compiled"),
        "COMPILE_CACHE_SECRET": "0123456789abcdef",
        # Otherwise the second start would find here what the first has compiled.
        "TORCHINDUCTOR_CACHE_DIR": str(scratch / start),
        "TRITON_CACHE_DIR": str(scratch / start / "triton"),
    }
    side = max(MIN_SIDE, subject.size.width)
    job = {
        "prompt": "x",
        "image": _image(side),
        "size": f"{side}*{side}",
        "num_inference_steps": subject.steps,
    }
    arguments = ["handler.py", "--test_input", json.dumps({"input": job})]
    return _start(arguments, checkpoint, environment)


def _start(arguments: list[str], checkpoint: Path, environment: dict[str, str]) -> float:
    """Run a program with a cold checkpoint, and return its seconds."""
    os.sync()
    for path in checkpoint.rglob("*.safetensors"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - began
    if done.returncode or (arguments[0] == "handler.py" and "image_url" not in done.stdout):
        raise RuntimeError(f"no image:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return seconds


def _image(side: int) -> str:
    """Return a black PNG as a data URL."""
    file = io.BytesIO()
    Image.new("RGB", (side, side)).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
