"""The import of the model's libraries on a thread."""

import gc
import subprocess
import sys

import pytest

from kontext.startup import imports


def test_the_model_is_imported_when_the_thread_has_ended() -> None:
    """In a fresh process, where torch is not yet imported."""
    program = """
import sys
from kontext.startup import imports
assert "torch" not in sys.modules
imports.start().join()
print("torch" in sys.modules, "kontext.inference.model" in sys.modules)
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["True", "True"]


def test_the_import_leaves_the_garbage_collector_alone() -> None:
    """Pausing it is a step of its own."""
    imports.start().join()

    assert gc.isenabled()


def test_an_error_is_left_to_the_next_import(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it ends the boot with its own message."""
    monkeypatch.setitem(sys.modules, "kontext.inference.model", None)
    imports.import_model()

    with pytest.raises(ImportError):
        __import__("kontext.inference.model")
