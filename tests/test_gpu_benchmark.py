"""`benchmarks/gpu.py` runs from end to end without a GPU, so that one call will do on one."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest

from kontext.mode import Mode

PROGRAM = Path(__file__).parent.parent / "benchmarks/gpu.py"
PROMISED = {
    "mode",
    "seconds",
    "x_eager",
    "x_floor",
    "tflops",
    "peak_gb",
    "usd_per_image",
    "relative_error",
    "step_error_float32",
    "latents_error_float32",
    "card",
    "driver",
    "torch",
    "date",
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one run of everything leaves behind."""
    directory = tmp_path_factory.mktemp("results")
    command = [sys.executable, str(PROGRAM), "all", "--tiny", "--results", str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "| mode | s | x eager |" in done.stdout.splitlines()[-5]
    return directory


def test_each_mode_is_measured_beside_eager_diffusers(results: Path) -> None:
    """The accuracy is added to the rows that the speed has left."""
    rows = found(results, "gpu-*.json")

    assert set(rows) == {"eager", *get_args(Mode)}
    assert all(row.keys() >= PROMISED for row in rows.values())
    assert rows["eager"]["x_eager"] == 1
    assert rows["exact"]["relative_error"] == 0


def test_no_mode_is_compiled_again_and_each_repeats_itself(results: Path) -> None:
    """Over other sizes and prompts, with and without a negative one."""
    rows = found(results, "gpu-*.json")

    assert {rows[mode]["recompiles"] for mode in get_args(Mode)} == {0}
    assert all(row["repeatable"] for row in rows.values())


def test_what_is_rounded_more_is_further_from_float32(results: Path) -> None:
    """In one step: bfloat16 by less than one in a hundred, 8 bits by more, turbo as `fast`."""
    rows = found(results, "gpu-*.json")
    errors = {mode: row["step_error_float32"] for mode, row in rows.items()}

    assert 0 < errors["exact"] < errors["fast"] == errors["turbo"]
    assert errors["exact"] < 0.01


def test_the_boot_is_timed_cold_and_warm(results: Path) -> None:
    """Beside plain loading."""
    rows = found(results, "boot-*.json")

    assert set(rows) == {"plain from_pretrained", "ours, cold cache", "ours, warm cache"}
    assert all(row["seconds"] > 0 for row in rows.values())


def found(results: Path, pattern: str) -> dict[str, dict[str, Any]]:
    """Return the rows of the one file of that name, by mode."""
    (path,) = results.glob(pattern)
    return {row["mode"]: row for row in json.loads(path.read_text())}
