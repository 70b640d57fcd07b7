"""Run one task of `benchmarks/gpu.py` in this process: a part, or one plan of a part.

Every finding is written to the JSON file at once, and so is the reason if this machine cannot run
the task or the task fails.
"""

import argparse
import faulthandler
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from gpu import FAILED, REFUSED
from gpu_accuracy import accuracy
from gpu_boot import boot
from gpu_plans import NotMeasurableError
from gpu_rates import rates
from gpu_results import OtherMachineError, Results
from gpu_speed import speed
from gpu_subject import Subject
from gpu_targets import derive

from kontext.errors import BootError

Findings = Iterator[tuple[str, str, dict[str, Any]]]
"""Findings: the part, the row's name and its figures."""


def main() -> None:
    """Run the task; exit with `FAILED` if it fails, with `REFUSED` if no task can run here."""
    faulthandler.enable()
    arguments = _parser().parse_args()
    if arguments.tiny:
        torch.set_num_threads(1)  # more threads slow such small tensors down
    results = Results(arguments.out, derive)
    try:
        subject = Subject.tiny() if arguments.tiny else Subject.real()
        results.set_machine(subject.machine)
    except (BootError, OtherMachineError) as error:
        print(error, file=sys.stderr)
        sys.exit(REFUSED)
    results.begin(arguments.part, arguments.name)
    if not _measure(arguments, subject, results):
        sys.exit(FAILED)


def _measure(arguments: argparse.Namespace, subject: Subject, results: Results) -> bool:
    """Measure and keep each finding at once; return whether nothing failed."""
    task = arguments.part, arguments.name
    try:
        for part, name, row in _PARTS[arguments.part](subject, arguments.name, arguments.out):
            results.keep(part, name, row)
            print(f"  {part} {name}: {row}"[:300], flush=True)
    except (NotMeasurableError, BootError) as error:
        results.leave_out(*task, str(error))
    except Exception:  # noqa: BLE001 - written to the file
        error_text = traceback.format_exc()
        print(error_text, file=sys.stderr)
        results.fail(*task, error_text[-4000:])
        return False
    return True


_PARTS: dict[str, Callable[[Subject, str, Path], Findings]] = {
    "rates": lambda subject, _name, _out: rates(subject),
    "speed": lambda subject, name, out: speed(subject, name, out.with_name(f"{out.stem}-latents")),
    "accuracy": lambda subject, name, _out: accuracy(subject, name),
    "boot": lambda subject, _name, _out: boot(subject),
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python benchmarks/gpu_task.py", description=__doc__)
    parser.add_argument("part", choices=list(_PARTS))
    parser.add_argument("name")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true")
    return parser


if __name__ == "__main__":
    main()
