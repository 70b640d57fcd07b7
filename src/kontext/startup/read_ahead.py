"""Reads the weights into the page cache on a thread, while the worker imports what loads them."""

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
    """Start to read the weights that the worker will load.

    Returns:
        The thread that reads; None if the worker loads no weights, or if only the boot can tell,
        which looks for a GPU.
    """
    certain = settings.production or settings.model_path
    if "model" in settings.stand_in or not certain:
        return None
    thread = threading.Thread(target=_read_all, args=(settings,), name="read-ahead", daemon=True)
    thread.start()
    return thread


def read(files: Iterable[Path]) -> int:
    """Read `files` into the page cache, in this order; return the number of bytes.

    This runs in another process, because a thread would wait after each of its thousands of calls
    for the interpreter's lock, which the imports hold.
    """
    command = [sys.executable, "-m", "kontext.startup.page_cache", *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return int(done.stdout or 0)


def _read_all(settings: Settings) -> None:
    began = time.monotonic()
    safety = sorted(Path(settings.safety_model_path).glob("*.safetensors"))
    with suppress(BootError):  # the boot raises it again, where the deployer reads it
        found = weights.find(settings.model_id, settings.model_path)
        done = read([*safety, *found.files])
        log.info("read ahead: %.1f GB in %.1f s", done / 1e9, time.monotonic() - began)
