"""Files -> the page cache, in the background, so that whoever maps them later does not wait.

Pure Python, so that it runs while torch is still being imported. It only ever helps: whatever it
cannot read is left to the reader proper, which knows how to complain.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from kontext import weights
from kontext.errors import BootError
from kontext.settings import Settings

log = logging.getLogger("kontext")

READERS = 4
"""Parallel reads; each waits for the disk, but takes the interpreter from the imports to go on."""

_BLOCK = 16 << 20
_SHARE = 0.9
"""Of the memory that is available; the rest is for the process itself."""

Block = tuple[Path, int, int]
"""A file, an offset and a size."""

_MEMORY = Path("/proc/meminfo")
_CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")


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


def read(files: Iterable[Path], memory: int | None = None) -> int:
    """Read `files` into the page cache, in this order, and keep nothing.

    Args:
        files: Those that cannot be read are passed over.
        memory: Bytes to read at most; what the machine can hold, if not given.

    Returns:
        The number of bytes read.
    """
    began = time.monotonic()
    blocks = deque(_blocks(files, _available() if memory is None else memory))
    done: list[int] = []
    # Not a pool: the interpreter waits for a pool's work when it ends, and a boot may fail early.
    readers = [
        threading.Thread(target=lambda: done.append(_drain(blocks)), daemon=True)
        for _ in range(READERS)
    ]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    log.info("prefetch: %.1f GB in %.1f s", sum(done) / 1e9, time.monotonic() - began)
    return sum(done)


def _read_all(settings: Settings) -> None:
    safety = sorted(Path(settings.safety_model_path).glob("*.safetensors"))
    with suppress(BootError):  # the boot will raise it again, where it is told to the deployer
        found = weights.find(settings.model_id, settings.model_path)
        read([*safety, *found.files])


def _drain(blocks: deque[Block]) -> int:
    """Read blocks, all into one buffer, until none is left; return the number of bytes."""
    buffer = memoryview(bytearray(_BLOCK))
    done = 0
    with suppress(IndexError):  # another reader may take the last one
        while True:
            path, offset, size = blocks.popleft()
            with suppress(OSError), path.open("rb", buffering=0) as file:
                file.seek(offset)
                done += file.readinto(buffer[:size]) or 0
    return done


def _blocks(files: Iterable[Path], limit: int) -> Iterator[Block]:
    """Yield every block of `files`, up to `limit` bytes of all."""
    for path in files:
        with suppress(OSError):
            size = min(path.stat().st_size, limit)
            limit -= size
            for offset in range(0, size, _BLOCK):
                yield path, offset, min(_BLOCK, size - offset)


def _available() -> int:
    """Return the bytes that the page cache can take; 0 where Linux does not tell."""
    with suppress(OSError):
        fields = dict(line.split(":", 1) for line in _MEMORY.read_text().splitlines())
        machine = int(fields["MemAvailable"].split()[0]) * 1024
        return int(_SHARE * min(machine, _container_limit() or machine))
    return 0


def _container_limit() -> int | None:
    """Return the container's memory, page cache included; None: all of the machine's."""
    with suppress(OSError, ValueError):  # "max" is no number
        return int(_CONTAINER_LIMIT.read_text())
    return None
