"""Measure what the card can do: the transformer's matrix products and attention alone.

The sizes are those of one edit of 1024*1024 with a reference of that size. From these rates
`gpu_work.floor` computes how long an edit takes at least.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from gpu_operations import ATTENTION, Prepare, products
from gpu_subject import Subject
from gpu_work import PRODUCTS

Row = dict[str, Any]

_SECONDS = {"cuda": 0.5, "cpu": 0.01}
"""Seconds for which an operation is timed, after as long for clocks and power limit to settle."""


class Shape(NamedTuple):
    """The transformer's tokens, width and heads in an edit."""

    tokens: int
    width: int
    heads: int


def rates(subject: Subject) -> Iterator[tuple[str, str, Row]]:
    """Yield each operation's seconds and TFLOP/s, or why it was skipped."""
    shape = Shape(*subject.shape)
    for precision, multiply in products(subject).items():
        for name, (inputs, outputs) in PRODUCTS.items():
            sizes = shape.tokens, inputs * shape.width, outputs * shape.width
            flop = 2 * sizes[0] * sizes[1] * sizes[2]
            yield "rates", f"{precision}: {name}", _rate(subject, flop, multiply, *sizes)
    for name, attend in ATTENTION.items():
        flop = 4 * shape.tokens**2 * shape.width
        yield "rates", f"attention: {name}", _rate(subject, flop, attend, *shape)


def _rate(subject: Subject, flop: float, prepare: Prepare, *sizes: int) -> Row:
    try:
        seconds = _median_seconds(prepare(subject.device, *sizes), subject.device)
    except Exception as error:  # noqa: BLE001 - not installed, or not for this card
        return {"skipped": f"{type(error).__name__}: {error}".splitlines()[0]}
    return {"seconds": seconds, "tflops": flop / seconds / 1e12, "sizes": list(sizes)}


def _median_seconds(work: Callable[[], object], device: str) -> float:
    """Return the median of single calls, timed for `_SECONDS` after as long a warm-up."""
    first = statistics.median(_timed(work, 5, device)[2:])
    times = min(5000, max(5, int(_SECONDS[device] / first)))
    return statistics.median(_timed(work, 2 * times, device)[times:])


def _timed(work: Callable[[], object], times: int, device: str) -> list[float]:
    """Return the seconds of each call by the device's clock."""
    if device == "cuda":
        return _timed_on_cuda(work, times)
    moments = [time.perf_counter_ns()]
    for _ in range(times):
        work()
        moments.append(time.perf_counter_ns())
    return [(end - begin) / 1e9 for begin, end in pairwise(moments)]


def _timed_on_cuda(work: Callable[[], object], times: int) -> list[float]:
    events: list[Any] = [
        torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        for _ in range(times + 1)
    ]
    events[0].record()
    for event in events[1:]:
        work()
        event.record()
    torch.cuda.synchronize()
    return [begin.elapsed_time(end) / 1e3 for begin, end in pairwise(events)]
