"""Imports torch and the model's libraries on a thread, because that takes seconds."""

import importlib
import threading
from contextlib import suppress


def start() -> threading.Thread:
    """Start the import and return its thread."""
    thread = threading.Thread(target=import_model, name="imports", daemon=True)
    thread.start()
    return thread


def import_model() -> None:
    """Import what loads the model; an error is raised again by the next import of it."""
    with suppress(Exception):
        importlib.import_module("kontext.inference.model")
