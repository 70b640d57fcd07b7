"""From process start to the first picture: `handler.py` itself, beside plain `from_pretrained`.

The checkpoint is written to the disk and taken out of the page cache before each start. Ours starts
twice: with nothing compiled yet, and with what the first start has left in COMPILE_CACHE.
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
from pathlib import Path
from typing import Any

import torch
from gpu_subject import Subject
from PIL import Image
from real_size import FULL

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"

PLAIN = """
import sys, torch
from diffusers import FluxKontextPipeline
from PIL import Image
path, device, steps, side = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
pipeline = FluxKontextPipeline.from_pretrained(path, dtype=torch.bfloat16).to(device)
picture = Image.new("RGB", (side, side))
found = pipeline(image=picture, prompt="x", width=side, height=side, max_area=side * side,
                 num_inference_steps=steps, _auto_resize=False).images[0]
found.save(sys.argv[5])
"""


def boot(subject: Subject) -> list[dict[str, Any]]:
    """Start each, and wait for its picture."""
    BUILD.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD) as place:
        checkpoint, scratch = Path(place, "FLUX.1-Kontext-dev"), Path(place)
        subject.pipeline(FULL, torch.bfloat16, subject.device).save_pretrained(checkpoint)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        plain = _plain(subject, checkpoint, scratch)
        cold = _ours(subject, checkpoint, scratch, "first")
        warm = _ours(subject, checkpoint, scratch, "second")
    starts = {"plain from_pretrained": plain, "ours, cold cache": cold, "ours, warm cache": warm}
    return [
        {"mode": name, "seconds": seconds, "x_eager": plain / seconds}
        for name, seconds in starts.items()
    ]


def _plain(subject: Subject, checkpoint: Path, scratch: Path) -> float:
    arguments = [checkpoint, subject.device, subject.steps, subject.size.width, scratch / "p.png"]
    return _start(["-c", PLAIN, *map(str, arguments)], checkpoint, os.environ.copy())


def _ours(subject: Subject, checkpoint: Path, scratch: Path, start: str) -> float:
    environment = {
        **os.environ,
        "MODEL_PATH": str(checkpoint),
        "STAND_IN": "safety,bucket" if subject.device == "cuda" else "model,safety,bucket",
        "COMPILE_CACHE": str(scratch / "compiled"),
        "COMPILE_CACHE_SECRET": "0123456789abcdef",
        "TORCHINDUCTOR_CACHE_DIR": str(scratch / start),  # else the second would find the first's
        "TRITON_CACHE_DIR": str(scratch / start / "triton"),
    }
    job = {
        "prompt": "x",
        "image": _picture(subject),
        "size": f"{subject.size.width}*{subject.size.height}",
        "num_inference_steps": subject.steps,
    }
    arguments = ["handler.py", "--test_input", json.dumps({"input": job})]
    return _start(arguments, checkpoint, environment)


def _start(arguments: list[str], checkpoint: Path, environment: dict[str, str]) -> float:
    """Run a program with the checkpoint out of the page cache; return its seconds."""
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
        raise RuntimeError(f"no picture:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return seconds


def _picture(subject: Subject) -> str:
    file = io.BytesIO()
    Image.new("RGB", (subject.size.width, subject.size.height)).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
