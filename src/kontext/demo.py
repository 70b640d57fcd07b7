"""One edit on a laptop, from job to saved image, as Runpod and a client would run it.

Starts the embedded bucket, runs the worker on a test job, then does what a client does: opens the
presigned link and saves the image, and beside it one that shows it next to the input.
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
"""What the stand-in model understands, and how far it takes it: all the way."""
SIZE = "640*640"
"""Two CPU cores need a third as long for it as for 1024*1024, or less."""

_GAP = 16
_RESULT = "Job result: "
"""What Runpod's SDK prints before the result of a local run, as a Python literal."""


def main() -> None:
    """Run it from the command line."""
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
    parser.add_argument("--prompt", default=PROMPT, help="in place of the job's (%(default)s)")
    parser.add_argument(
        "--guidance", type=float, default=GUIDANCE, help="in place of the job's (%(default)s)"
    )
    parser.add_argument("--size", default=SIZE, help="in place of the job's (%(default)s)")
    parser.add_argument("--output", type=Path, default="output", help="where to save the image")
    return parser


def _run(handler: Path, job: str, environment: dict[str, str]) -> dict[str, dict[str, str]]:
    """Run the worker on one job; show its output as it comes.

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
    answer = httpx.get(url).raise_for_status()
    directory.mkdir(exist_ok=True)
    path = directory / Path(urlsplit(url).path).name
    path.write_bytes(answer.content)
    return path


def _side_by_side(url: str, edited: Path) -> Path:
    """Save the input beside the result, at the result's height; return where."""
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
