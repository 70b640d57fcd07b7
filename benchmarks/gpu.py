"""What each mode costs in time, money and accuracy on this machine's GPU.

The pipeline has the real configuration and random weights. The parts, each below ten minutes on an
H200 or a card like it, are estimated, not measured:

    speed      the modes beside eager diffusers in bfloat16, 1024*1024 with a reference
    accuracy   the modes beside float32, at real width and reduced depth
    boot       process start to first picture, beside plain `from_pretrained`; needs 40 GB of disk

Each adds what it measured to `gpu-<card>.json` (boot: `boot-<card>.json`) and prints the table.
With --tiny everything runs on the CPU in a minute, to show that the program works; its figures
mean nothing.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpu_subject import Subject

Row = dict[str, Any]

HERE = Path(__file__).resolve().parent

COLUMNS = {
    "mode": "mode",
    "seconds": "s",
    "x_eager": "x eager",
    "x_floor": "x floor",
    "tflops": "TFLOP/s",
    "peak_gb": "peak GB",
    "usd_per_image": "$ an image",
    "relative_error": "error, exact",
    "step_error_float32": "step, float32",
    "latents_error_float32": "latents, float32",
    "outside_ms": "outside the loop, ms",
    "first_x_median": "first job",
    "recompiles": "recompiles",
    "repeatable": "repeatable",
}
"""Of a result -> of the table."""

DOCUMENTED_USD = 0.025
"""An image at Runpod's public endpoint, by its page."""


def main() -> None:
    """Measure the parts asked for, and show all that is known of this card."""
    arguments = _parser().parse_args()
    subject, measure = _prepare(arguments.tiny)
    for part in measure if arguments.part == "all" else [arguments.part]:
        name = "boot" if part == "boot" else "gpu"
        path = arguments.results / f"{name}-{subject.slug}.json"
        _keep(path, measure[part](subject), subject.facts)
        _show(path)


def _prepare(tiny: bool) -> tuple["Subject", dict[str, Callable[["Subject"], list[Row]]]]:
    """Import what takes seconds, after --help; return what to measure, and how."""
    from gpu_accuracy import accuracy
    from gpu_boot import boot
    from gpu_speed import speed
    from gpu_subject import Subject

    subject = Subject.tiny() if tiny else Subject.real()
    return subject, {"speed": speed, "accuracy": accuracy, "boot": boot}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python benchmarks/gpu.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "part", choices=["all", "speed", "accuracy", "boot"], nargs="?", default="all"
    )
    parser.add_argument("--tiny", action="store_true", help="the stand-in model, on the CPU")
    parser.add_argument(
        "--results", type=Path, default=HERE / "results", help="where the JSON goes"
    )
    return parser


def _keep(path: Path, found: list[Row], facts: dict[str, str]) -> None:
    """Add what was found, mode by mode, to what the file holds."""
    known = json.loads(path.read_text()) if path.exists() else []
    rows = {row["mode"]: row for row in known}
    for row in found:
        rows[row["mode"]] = rows.get(row["mode"], {}) | row | facts
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(list(rows.values()), indent=1) + "\n")


def _show(path: Path) -> None:
    rows = json.loads(path.read_text())
    columns = {key: title for key, title in COLUMNS.items() if any(key in row for row in rows)}
    sys.stdout.write(f"\n{path.name}; a public endpoint's image is ${DOCUMENTED_USD}\n\n")
    for cells in (
        columns.values(),
        ["---"] * len(columns),
        *(_cells(row, columns) for row in rows),
    ):
        sys.stdout.write(f"| {' | '.join(cells)} |\n")


def _cells(row: Row, columns: dict[str, str]) -> list[str]:
    values = (row.get(key) for key in columns)
    return [f"{value:.4g}" if type(value) is float else f"{value}" for value in values]


if __name__ == "__main__":
    main()
