"""One edit on a laptop, from job to saved picture, as Runpod and a client would run it.

Starts the embedded bucket, runs the worker on a test job, then does what a client does: opens the
presigned link and saves the picture.
"""

import argparse
import ast
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from kontext import embedded_bucket

_RESULT = "Job result: "
"""What Runpod's SDK prints before the result of a local run, as a Python literal."""


def main() -> None:
    """Run it from the command line."""
    arguments = _parser().parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="kontext-") as root,
        embedded_bucket.serve(Path(root)) as environment,
    ):
        result = _run(arguments.handler, arguments.test_input, environment)
        print(json.dumps(result["output"], indent=2))
        saved = _download(result["output"]["image_url"], arguments.output)
    print(f"The edited picture is {saved}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m kontext.demo", description=__doc__)
    parser.add_argument("--handler", type=Path, default="handler.py", help="the worker")
    parser.add_argument("--test_input", type=Path, default="test_input.json", help="the job")
    parser.add_argument("--output", type=Path, default="output", help="where to save the picture")
    return parser


def _run(handler: Path, test_input: Path, environment: dict[str, str]) -> dict[str, dict[str, str]]:
    """Run the worker on one job; show its output as it comes.

    Returns:
        `{"output": {"image_url", "cost"}}`.
    """
    command = [sys.executable, str(handler), "--test_input", test_input.read_text()]
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


if __name__ == "__main__":
    main()
