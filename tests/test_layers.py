"""The house rules on imports: down only, and torch in few modules alone."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import kontext

SOURCES = sorted(Path(kontext.__file__).parent.glob("*.py"))
HEAVY = {"torch", "torchao", "diffusers", "transformers"}
MAY_BE_HEAVY = {
    "model",
    "acceleration",
    "attention",
    "blocks",
    "step_cache",
    "transformer",
    "autoencoder",
    "editor",
    "gpu_faults",
    "safety",
    "random_model",
    "stand_in",
    "compile_cache",
    "boot",
}
"""`boot` imports them inside functions only, when the worker starts."""


def imports(path: Path) -> set[str]:
    """Return the modules that a file imports anywhere."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_only_the_gpu_modules_import_torch(path: Path) -> None:
    """Everything else starts without it."""
    heavy = {name.split(".")[0] for name in imports(path)} & HEAVY

    assert not heavy or path.stem in MAY_BE_HEAVY


def test_no_import_ring() -> None:
    """Imports go down only: the modules have an order."""
    below = {
        path.stem: {name.removeprefix("kontext.") for name in imports(path)} for path in SOURCES
    }
    remaining = set(below)
    while remaining:
        lowest = {module for module in remaining if not below[module] & (remaining - {module})}
        assert lowest, f"these import each other in a ring: {sorted(remaining)}"
        remaining -= lowest


@pytest.mark.parametrize("module", ["request", "worker", "settings"])
def test_a_light_module_stays_light(module: str) -> None:
    """Importing it loads neither torch nor Runpod's SDK."""
    program = f"import sys, kontext.{module}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()

    assert not (HEAVY | {"runpod"}) & set(loaded)


def test_a_checkout_that_is_not_installed_can_be_imported(tmp_path: Path) -> None:
    """As on a rented machine; it has no version."""
    (tmp_path / "kontext").mkdir()
    shutil.copy(kontext.__file__, tmp_path / "kontext")
    program = "import sys; sys.path.append(sys.argv[1]); import kontext; print(kontext.__version__)"
    without_packages = [sys.executable, "-I", "-S", "-c", program, str(tmp_path)]
    said = subprocess.run(without_packages, capture_output=True, text=True, check=True).stdout

    assert said.strip() == "unknown"
