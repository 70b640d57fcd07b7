"""The two slow parts of a boot side by side: reading the weights, and importing what loads them."""

import gc
import importlib
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from kontext.errors import BootError
from kontext.inference import weights
from kontext.settings import Settings

log = logging.getLogger("kontext")


def start(settings: Settings) -> threading.Thread | None:
    """Read what the worker will load, from a thread of its own; None if it loads no weights.

    A machine of which only the boot can tell, by its GPU, whether it loads them, gets no thread.
    """
    certain = settings.production or settings.model_path
    if "model" in settings.stand_in or not certain:
        return None
    thread = threading.Thread(target=_read_all, args=(settings,), name="prefetch", daemon=True)
    thread.start()
    return thread


def import_model() -> None:
    """Import what takes seconds; whoever needs it next meets its error, if any, by name.

    Garbage is not looked for until `settle`: a boot makes what is to stay, and looking through it
    again and again costs a second.
    """
    gc.disable()
    with suppress(Exception):
        importlib.import_module("kontext.inference.model")


def settle() -> None:
    """Look for garbage again, but no more among what the boot has made."""
    gc.freeze()
    gc.enable()


def read(files: Iterable[Path]) -> int:
    """Read `files` into the page cache, in this order; return the number of bytes.

    In a process of its own, for a thread would wait for the interpreter, which the imports hold,
    after each of its thousands of calls.
    """
    command = [sys.executable, "-m", "kontext.startup.page_cache", *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return int(done.stdout or 0)


def _read_all(settings: Settings) -> None:
    began = time.monotonic()
    safety = sorted(Path(settings.safety_model_path).glob("*.safetensors"))
    with suppress(BootError):  # the boot will raise it again, where it is told to the deployer
        found = weights.find(settings.model_id, settings.model_path)
        done = read([*safety, *found.files])
        log.info("prefetch: %.1f GB in %.1f s", done / 1e9, time.monotonic() - began)
