"""Runs one edit on a laptop, from the job to the saved image, as Runpod and a client would.

Starts the embedded bucket and runs the worker on a test job. Then does what a client does: opens
the presigned link and saves the image; beside it, saves the input and the result side by side.
"""

import argparse
import ast
import asyncio
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from PIL import Image

from kontext.address_policy import address_policy
from kontext.images.fetch import ImageFetcher
from kontext.settings import Settings
from kontext.storage import embedded_bucket

PROMPT = "Make it sepia"
GUIDANCE = 5.0
"""A prompt that the stand-in model understands, and the guidance that applies it fully."""
SIZE = "640*640"
"""Two CPU cores need at most a third of the time for 1024*1024."""

_GAP = 16
_RESULT = "Job result: "
"""What Runpod's SDK prints before the result of a local run, which is a Python literal."""


def main() -> None:
    """Run the demo from the command line."""
    arguments = _parser().parse_args()
    job = json.loads(arguments.test_input.read_text())
    asked = ("prompt", "guidance", "size")
    job["input"] |= {name: getattr(arguments, name) for name in asked}
    with (
        tempfile.TemporaryDirectory(prefix="kontext-") as root,
        embedded_bucket.serve(Path(root)) as environment,
    ):
        result = _run(arguments.handler, json.dumps(job), environment)
        print(json.dumps(result["output"], indent=2))
        saved = _download(result["output"]["image_url"], arguments.output)
    print(f"The edited image is {saved}")
    print(f"Before and after are {_side_by_side(job['input']['image'], saved)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m kontext.demo", description=__doc__)
    parser.add_argument("--handler", type=Path, default="handler.py", help="the worker")
    parser.add_argument("--test_input", type=Path, default="test_input.json", help="the job")
    parser.add_argument("--prompt", default=PROMPT, help="replaces the job's (%(default)s)")
    parser.add_argument(
        "--guidance", type=float, default=GUIDANCE, help="replaces the job's (%(default)s)"
    )
    parser.add_argument("--size", default=SIZE, help="replaces the job's (%(default)s)")
    parser.add_argument("--output", type=Path, default="output", help="where to save the image")
    return parser


def _run(handler: Path, job: str, environment: dict[str, str]) -> dict[str, dict[str, str]]:
    """Run the worker on one job and print its output as it arrives.

    Args:
        handler: The worker's script.
        job: The job as JSON.
        environment: The environment variables that point the worker at the bucket.

    Returns:
        `{"output": {"image_url", "cost"}}`.
    """
    command = [sys.executable, str(handler), "--test_input", job]
    with subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True
    ) as worker:
        result = None
        for line in worker.stdout or ():
            print(line, end="")
            _, found, literal = line.partition(_RESULT)
            result = ast.literal_eval(literal) if found else result
    if worker.returncode or result is None:
        sys.exit(worker.returncode or 1)
    return dict(result)


def _download(url: str, directory: Path) -> Path:
    response = httpx.get(url).raise_for_status()
    directory.mkdir(exist_ok=True)
    path = directory / Path(urlsplit(url).path).name
    path.write_bytes(response.content)
    return path


def _side_by_side(url: str, edited: Path) -> Path:
    """Save the input, at the result's height, beside the result; return the file's path."""
    before = asyncio.run(ImageFetcher(address_policy(Settings.load())).fetch(url))
    with Image.open(edited) as after:
        before = before.resize((round(before.width * after.height / before.height), after.height))
        both = Image.new("RGB", (before.width + _GAP + after.width, after.height), "white")
        both.paste(before, (0, 0))
        both.paste(after, (before.width + _GAP, 0))
    path = edited.with_stem(f"{edited.stem}-before-after")
    both.save(path)
    return path


if __name__ == "__main__":
    main()
