"""Measure what each mode costs in time, money and accuracy on this machine's GPU.

The pipeline has FLUX.1 Kontext [dev]'s real configuration and random weights. The parts:

    rates      the transformer's matrix products and attention alone: what the card can do
    speed      each plan at 1024*1024 with a reference; a profile of `fast`; eager diffusers last
    accuracy   each plan's error against float32, at real width and reduced depth
    boot       process start to first image, beside plain `from_pretrained`; writes 34 GB

Every figure is written to the JSON file as soon as it is known, and a file that exists is extended.
So a call that is cut off loses nothing, and a second call can measure what was left out:

    python benchmarks/gpu.py --out gpu.json
    python benchmarks/gpu.py speed --only turbo eager --out gpu.json

Each plan runs in its own process, so that a crash or a broken CUDA context does not affect others.
With --tiny everything runs on the CPU in a few minutes, to show that the program works; its figures
mean nothing.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from gpu_plans import EAGER, PLANS
from gpu_results import Results
from gpu_table import tables
from gpu_targets import derive

HERE = Path(__file__).resolve().parent

PARTS = ["rates", "speed", "accuracy", "boot"]
NAMES = [*PLANS, EAGER]

ALL = "all"
"""Name of the only task of a part that is not measured plan by plan."""

MINUTES = 7.0
"""Minutes after which no task is started: the longest plan takes two or three (an estimate), and a
machine may be rented for ten."""

REFUSED, FAILED = 3, 4
"""Exit statuses of a task: no task can run here or add to this file; this task failed, and the file
says why."""


class Task(NamedTuple):
    """What is measured or left out as a whole."""

    part: str
    name: str


def main() -> None:
    """Measure what the command line asks for, and print all figures of this card."""
    began = time.monotonic()
    arguments = _arguments()
    results = Results(arguments.out, derive)
    complete = True
    for task in _tasks(arguments):
        spent = (time.monotonic() - began) / 60
        print(f"{spent:.1f} min: {task.part} {task.name}", flush=True)
        if spent > arguments.minutes:
            results.leave_out(*task, f"{arguments.minutes:g} minutes were over")
        else:
            complete &= _run_task(task, arguments, results)
    print(f"\n{arguments.out}\n{tables(results.read())}")
    sys.exit(not complete)


def _tasks(arguments: argparse.Namespace) -> Iterator[Task]:
    """Yield what to measure, the most useful first."""
    for part in arguments.parts:
        for name in NAMES if part in ("speed", "accuracy") else [ALL]:
            if name == ALL or name in arguments.only:
                yield Task(part, name)


def _run_task(task: Task, arguments: argparse.Namespace, results: Results) -> bool:
    """Run the task in its own process; return whether it was measured or rightly left out."""
    options = ["--out", arguments.out, *["--tiny"] * arguments.tiny]
    command = [sys.executable, HERE / "gpu_task.py", *task, *options]
    status = subprocess.run(command, check=False).returncode
    if status == REFUSED:
        sys.exit(REFUSED)
    if status not in (0, FAILED):
        results.fail(*task, f"its process ended with status {status}; below 0 it is a signal's")
    return status == 0


def _arguments() -> argparse.Namespace:
    parser = _parser()
    arguments = parser.parse_args()
    arguments.parts = arguments.parts or ["rates", "speed"]
    if unknown := [part for part in arguments.parts if part not in PARTS]:
        parser.error(f"PART must be one of {', '.join(PARTS)}, got {', '.join(unknown)}")
    return arguments


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python benchmarks/gpu.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: rates speed)"
    )
    parser.add_argument(
        "--only", nargs="+", choices=NAMES, default=NAMES, help="plans to measure (default: all)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=HERE / "results/gpu.json",
        help="JSON file to write or add to (default: benchmarks/results/gpu.json)",
    )
    parser.add_argument(
        "--minutes", type=float, default=MINUTES, help="after which no task is started (default: 7)"
    )
    parser.add_argument("--tiny", action="store_true", help="a tiny model, on the CPU")
    return parser


if __name__ == "__main__":
    main()
