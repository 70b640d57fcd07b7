"""Format the figures of the GPU benchmark as Markdown tables."""

from collections.abc import Iterator, Mapping
from typing import Any

Document = dict[str, Any]

_COLUMNS = {
    "rates": {"seconds": "s", "tflops": "TFLOP/s", "skipped": "skipped"},
    "speed": {
        "median_seconds": "s",
        "first_job_seconds": "first job, s",
        "x_eager": "x eager",
        "x_floor": "x floor",
        "tflops": "TFLOP/s",
        "peak_gb": "peak GB",
        "usd_per_image": "$ an image",
        "recompiles": "recompiles",
        "repeatable": "repeatable",
    },
    "distance": {"relative_error": "latents, from those of `exact`"},
    "accuracy": {
        "step_error_float32": "step, float32",
        "latents_error_float32": "latents, float32",
    },
    "boot": {"seconds": "s"},
}
"""For each part, the keys of a row that are shown, and their columns' titles."""


def tables(document: Document) -> str:
    """Return tables of all figures in the document, the targets last."""
    return "\n".join(_lines(document))


def _lines(document: Document) -> Iterator[str]:
    for part, columns in _COLUMNS.items():
        if part in document:
            rows = [{"name": name} | row for name, row in document[part].items()]
            yield from _table(rows, {"name": part} | columns)
    for plan, found in document.get("profile", {}).items():
        columns = {"seconds": "s", "share": "share", "calls": "calls", "name": f"kernel of {plan}"}
        yield from _table(found["kernels"], columns)
    for excuse in "left_out", "failed":
        for name, reason in document.get(excuse, {}).items():
            yield f"{excuse.replace('_', ' ')}: {name}: {reason.splitlines()[-1]}"
    columns = {"target": "target", "wanted": "wanted", "figure": "figure", "outcome": "outcome"}
    yield from _table(document.get("targets", []), columns)


def _table(rows: list[Document], columns: Mapping[str, str]) -> Iterator[str]:
    """Yield the lines of one table; columns that no row has are left out."""
    columns = {key: title for key, title in columns.items() if any(key in row for row in rows)}
    yield ""
    for cells in columns.values(), ["---"] * len(columns), *(_cells(row, columns) for row in rows):
        yield f"| {' | '.join(cells)} |"
    yield ""


def _cells(row: Document, columns: Mapping[str, str]) -> list[str]:
    return [_cell(row.get(key)) for key in columns]


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)[:90]
