"""What each mode costs in time, money and accuracy on this machine's GPU.

The pipeline has FLUX.1 Kontext [dev]'s real configuration and random weights. The parts:

    rates      the transformer's products and attention, bare: what the card itself can do
    speed      each plan, 1024*1024 with a reference; a profile of `fast`; eager diffusers last
    accuracy   each plan beside float32, at real width and reduced depth
    boot       process start to first picture, beside plain `from_pretrained`; writes 34 GB

Every figure is written to the JSON file as soon as it is known, and a file that is there is added
to. So a call that is cut off loses nothing, and a second one can measure what was left out:

    python benchmarks/gpu.py --out gpu.json
    python benchmarks/gpu.py speed --only turbo eager --out gpu.json

With --tiny everything runs on the CPU in a minute or two, to show that the program works; its
figures mean nothing.
"""

import argparse
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gpu_plans import EAGER, PLANS, NotMeasurableError

from kontext.errors import BootError

if TYPE_CHECKING:
    from gpu_results import Results
    from gpu_subject import Subject

HERE = Path(__file__).resolve().parent

PARTS = ["rates", "speed", "accuracy", "boot"]
NAMES = [*PLANS, EAGER]

MINUTES = 7.0
"""After which nothing new begins: the longest plan takes two or three (an estimate), and a machine
may be lent for ten."""


class Task(NamedTuple):
    """What is measured, or left out, as one; yields part, row's name and row of each finding."""

    part: str
    name: str
    measure: Callable[[], Iterator[tuple[str, str, dict[str, Any]]]]


def main() -> None:
    """Measure what was asked for, and show all that is known of this card."""
    began = time.monotonic()
    arguments = _arguments()
    from gpu_results import OtherMachineError, Results
    from gpu_subject import Subject
    from gpu_table import tables
    from gpu_targets import derive

    subject = Subject.tiny() if arguments.tiny else Subject.real()
    out = arguments.out or HERE / "results" / f"gpu-{subject.slug}.json"
    try:
        results = Results(out, subject.machine, derive)
    except OtherMachineError as error:
        sys.exit(str(error))
    whole = _measure(_tasks(subject, arguments, out), results, began, arguments.minutes)
    print(f"\n{out}\n{tables(results.document)}")
    sys.exit(not whole)


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
        "--out", type=Path, help="JSON file to write or add to (default: results/gpu-<card>.json)"
    )
    parser.add_argument(
        "--minutes", type=float, default=MINUTES, help="after which nothing begins (default: 7)"
    )
    parser.add_argument("--tiny", action="store_true", help="a tiny model, on the CPU")
    return parser


def _tasks(subject: "Subject", arguments: argparse.Namespace, out: Path) -> Iterator[Task]:
    """Yield what to measure, the most valuable first."""
    from gpu_accuracy import Accuracy
    from gpu_boot import Boot
    from gpu_rates import rates
    from gpu_speed import speed

    latents = out.with_name(f"{out.stem}-latents")
    plans = [name for name in NAMES if name in arguments.only]
    accuracy, boot = Accuracy(subject), Boot(subject)
    parts = {
        "rates": {"all": partial(rates, subject)},
        "speed": {name: partial(speed, subject, name, latents) for name in plans},
        "accuracy": {name: partial(accuracy.measure, name) for name in plans},
        "boot": {name: partial(boot.measure, name) for name in boot.names},
    }
    for part in arguments.parts:
        for name, measure in parts[part].items():
            yield Task(part, name, measure)


def _measure(tasks: Iterator[Task], results: "Results", began: float, minutes: float) -> bool:
    """Carry the tasks out while there is time; tell whether none of them failed."""
    whole = True
    for task in tasks:
        spent = (time.monotonic() - began) / 60
        print(f"{spent:.1f} min: {task.part} {task.name}", flush=True)
        if spent > minutes:
            results.leave_out(task.part, task.name, f"{minutes:g} minutes were over")
        else:
            whole &= _carry_out(task, results)
    return whole


def _carry_out(task: Task, results: "Results") -> bool:
    """Keep each finding at once; a failure ends this task and no other."""
    from gpu_speed import forget_peak

    results.begin(task.part, task.name)
    failed = None
    try:
        for part, name, row in task.measure():
            results.keep(part, name, row)
            print(f"  {part} {name}: {row}"[:300], flush=True)
    except (NotMeasurableError, BootError) as error:
        results.leave_out(task.part, task.name, str(error))
    except Exception:  # noqa: BLE001 - what comes after it is as valuable
        failed = traceback.format_exc(limit=-12)[-4000:]
    if failed:  # out of the handler, which would keep the tensors alive
        results.fail(task.part, task.name, failed)
        print(failed, flush=True)
    forget_peak()
    return failed is None


if __name__ == "__main__":
    main()
