"""Define the targets of the GPU benchmark, and compute from the figures whether they are met.

A target whose figures are missing is open, neither met nor missed.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from gpu_plans import EAGER
from gpu_work import floor

Document = dict[str, Any]
Figure = Callable[[Document], float | None]

FAST_CARDS = ("H100", "H200")
"""The cards that have targets in seconds."""

NAMES = {
    "exact": "`exact`",
    "fast": "`fast`",
    "turbo": "`turbo`",
    "float8-attention": "float8 attention",
}


class Target(NamedTuple):
    """A figure and its bound, which is an upper one if `below`."""

    name: str
    figure: Figure
    bound: float
    below: bool = True


def derive(document: Document) -> None:
    """Add ratios and targets to the document.

    Rows of `speed` get `x_eager`, the speed relative to eager diffusers, and `x_floor`, the time
    relative to the floor of this card (see `gpu_work.floor`); None where a figure is missing.
    """
    speed, rates = document.get("speed", {}), document.get("rates", {})
    eager = speed.get(EAGER, {}).get("median_seconds")
    for row in speed.values():
        if seconds := row.get("median_seconds"):
            least = floor(rates, row["products"], row["attention"], row["steps_computed"])
            row["floor_seconds"] = least
            row["x_floor"] = seconds / least if least else None
            row["x_eager"] = eager / seconds if eager else None
    document["targets"] = [_outcome(target, document) for target in _targets(document)]


def _outcome(target: Target, document: Document) -> dict[str, Any]:
    figure = target.figure(document)
    met = None
    if figure is not None:
        met = figure <= target.bound if target.below else figure >= target.bound
    sign = "at most" if target.below else "at least"
    return {"target": target.name, "wanted": f"{sign} {target.bound:.4g}", "figure": figure} | {
        "outcome": {True: "met", False: "MISSED", None: "open"}[met]
    }


def _targets(document: Document) -> Iterator[Target]:
    yield Target("`exact`, times its floor", _of("exact", "x_floor"), 1.25)
    yield Target("`exact`, times as fast as eager", _of("exact", "x_eager"), 1.6, below=False)
    yield Target("`fast`, seconds on an H100 or H200", _seconds_of("fast"), 5.0)
    yield Target(
        "`fast`, times as fast as eager, every step computed",
        _all_steps_of("fast"),
        2.4,
        below=False,
    )
    yield Target(
        "float8 attention, seconds on an H100 or H200", _seconds_of("float8-attention"), 4.5
    )
    yield Target("`turbo`, times as fast as eager", _of("turbo", "x_eager"), 4.0, below=False)
    for plan, name in NAMES.items():
        planned = document.get("speed", {}).get(plan, {}).get("planned_peak_gb", 0)
        yield Target(f"{name}, peak GB within the plan", _of(plan, "peak_gb"), planned)
        yield Target(f"{name}, recompilations over other sizes", _of(plan, "recompiles"), 0)
        yield Target(f"{name}, first job beside the median", _first_of(plan), 1.1)
    yield Target("warm boot, seconds beside reading the weights", _warm_boot, 30)


def _of(plan: str, figure: str) -> Figure:
    def find(document: Document) -> float | None:
        found: float | None = document.get("speed", {}).get(plan, {}).get(figure)
        return found

    return find


def _seconds_of(plan: str) -> Figure:
    def find(document: Document) -> float | None:
        card = document.get("machine", {}).get("card", "")
        return _of(plan, "median_seconds")(document) if any(c in card for c in FAST_CARDS) else None

    return find


def _all_steps_of(plan: str) -> Figure:
    def find(document: Document) -> float | None:
        computed, steps = _of(plan, "steps_computed")(document), _of(plan, "steps")(document)
        return _of(plan, "x_eager")(document) if computed == steps else None

    return find


def _first_of(plan: str) -> Figure:
    def find(document: Document) -> float | None:
        first = _of(plan, "first_job_seconds")(document)
        median = _of(plan, "median_seconds")(document)
        return first / median if first and median else None

    return find


def _warm_boot(document: Document) -> float | None:
    boot = document.get("boot", {})
    if "ours, warm cache" not in boot or "reading alone" not in boot:
        return None
    return float(boot["ours, warm cache"]["seconds"] - boot["reading alone"]["seconds"])
