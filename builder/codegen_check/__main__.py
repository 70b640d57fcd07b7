"""Compile the transformer's blocks for every card and plan, on a machine that has no GPU.

    make codegen-check

Prints how many kernels one block launches in diffusers (before) and in the worker (after), and how
many bytes spill from registers. Fails if anything cannot be compiled, if a graph breaks, or if a
kind of block needs more than one graph. Nothing is run, so it shows neither speed nor correctness.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, replace
from itertools import chain
from typing import Any, NamedTuple, get_args

from codegen_check.cards import CARDS
from kontext.errors import BootError
from kontext.inference import mode
from kontext.inference.mode import Card
from kontext.inference.plan import EXACT, Attention, Plan
from kontext.settings import Mode

_COLUMNS = "{:7} {:14} {:14} {:>9} {:>9} {:>9} {:>9} {:>8} {:>8}"


class Case(NamedTuple):
    """A card, and the part of a plan that the blocks depend on."""

    capability: str
    plan: Plan

    @property
    def graphs(self) -> int:
        """Number of graphs expected: one for each kind of block and of attention."""
        return 4 if self.plan.float8_attention else 2

    @property
    def before(self) -> "Case":
        """The same with diffusers' own blocks, which have no FlashAttention 3 here."""
        attention: Attention = "cudnn" if self.plan.attention == "cudnn" else "torch"
        return self._replace(plan=replace(self.plan, attention=attention, float8_attention=None))

    @property
    def name(self) -> str:
        """The name of the case in messages."""
        attention = self.plan.float8_attention or self.plan.attention
        return f"{self.capability}, {self.plan.transformer}, attention {attention}"


Counting = Future[dict[str, Any] | str]
"""What was counted, or why it could not be compiled."""


def cases() -> list[Case]:
    """Return every case that `kontext.inference.mode` can choose on the cards, each once."""
    return list(dict.fromkeys(chain.from_iterable(_cases_of(each) for each in CARDS)))


def _cases_of(capability: str) -> Iterator[Case]:
    """Yield the cases of a card, also with little memory, with FlashAttention 3, and in float8."""
    properties = CARDS[capability]
    card = Card(properties.name, properties.total_memory, (properties.major, properties.minor))
    for each in card, replace(card, memory=24 * 10**9), replace(card, has_flash_attention_3=True):
        for plan in _plans(each):
            yield Case(capability, plan)
            if plan.attention == "flash 3" and plan.transformer == "float8":
                yield Case(capability, replace(plan, float8_attention="flash 3 float8"))


def _plans(card: Card) -> Iterator[Plan]:
    """Yield the plans of all modes, reduced to what the blocks depend on."""
    for name in get_args(Mode):
        with suppress(BootError):
            plan = mode.choose(name, card)
            yield replace(EXACT, transformer=plan.transformer, attention=plan.attention)


def compiled(case: Case, whose: str) -> dict[str, Any] | str:
    """Compile a case in its own process; return what was counted, or why it failed.

    Args:
        case: The case.
        whose: `ours` for the worker's blocks, `diffusers` for the library's.
    """
    command = [sys.executable, "-m", "codegen_check.blocks", case.capability]
    done = subprocess.run(
        [*command, json.dumps(asdict(case.plan)), whose],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return done.stderr.strip()[-3000:]
    counted: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return counted


def launches(counted: dict[str, Any] | str, block: str) -> str:
    """Return the number of kernels that one block launches, or `fails`."""
    return "fails" if isinstance(counted, str) else str(sum(counted["launches"][block].values()))


def print_header() -> None:
    """Print the two lines above the table."""
    print(
        _COLUMNS.format("", "", "", "kernels", "a double", "kernels", "a single", "Triton", "bytes")
    )
    print(
        _COLUMNS.format(
            "card",
            "blocks",
            "attention",
            "before",
            "after",
            "before",
            "after",
            "kernels",
            "spilled",
        )
    )


def report(case: Case, ours: dict[str, Any] | str, theirs: dict[str, Any] | str) -> bool:
    """Print the line of a case, and return whether it is as it should be."""
    print(
        _COLUMNS.format(
            case.capability,
            case.plan.transformer,
            case.plan.float8_attention or case.plan.attention,
            launches(theirs, "double"),
            launches(ours, "double"),
            launches(theirs, "single"),
            launches(ours, "single"),
            "" if isinstance(ours, str) else ours["kernels"],
            "" if isinstance(ours, str) else ours["spilled"],
        ),
        flush=True,
    )
    if isinstance(ours, str):
        print(f"{case.name}:\n{ours}", file=sys.stderr)
        return False
    if ours["graphs"] != case.graphs:
        print(f"{case.name}: {ours['graphs']} graphs instead of {case.graphs}", file=sys.stderr)
        return False
    return True


def main() -> None:
    """Check the cards that the command line names."""
    parser = argparse.ArgumentParser(prog="make codegen-check", description=__doc__)
    parser.add_argument("cards", nargs="*", metavar="CARD", help=", ".join(CARDS))
    chosen = parser.parse_args().cards or list(CARDS)
    todo = [case for case in cases() if case.capability in chosen]
    print_header()
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        ours: dict[Case, Counting] = {}
        theirs: dict[Case, Counting] = {}
        for case in todo:
            ours[case] = pool.submit(compiled, case, "ours")
            if case.before not in theirs:
                theirs[case.before] = pool.submit(compiled, case.before, "diffusers")
        results = [report(case, ours[case].result(), theirs[case.before].result()) for case in todo]
    sys.exit(not all(results))


if __name__ == "__main__":
    main()
