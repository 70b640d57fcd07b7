"""Reads files into the kernel's page cache, and keeps nothing itself.

    python -m kontext.startup.page_cache FILE...

Imports only the standard library, so that it starts at once. It never raises: a file that it cannot
read is skipped, and whatever loads the file later reports the error.
"""

import mmap
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

_READERS = 8
"""Processes that read in parallel, because one may not saturate a disk or a network."""

_NICENESS = 10
"""Low priority, so that the imports keep the CPU."""

_BLOCK = 64 << 20
"""Bytes that one process reads at a time; the blocks of a file are dealt out in turn."""

_MEMORY_SHARE = 0.9
"""The share of the available memory to fill; the process that loads the files needs the rest."""

_POPULATE_READ = 22
"""MADV_POPULATE_READ of Linux 5.14 and later, see madvise(2); Python has no constant for it."""

_MEMORY = Path("/proc/meminfo")
_CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")

Block = tuple[Path, int, int]
"""A file, an offset and a size."""


def read(files: Iterable[Path], memory: int | None = None) -> int:
    """Read `files` into the page cache, in this order.

    Nothing is copied, because reading into a buffer would use as much CPU time as the imports.

    Args:
        files: The files; those that cannot be read are skipped.
        memory: The most bytes to read; by default what the machine can hold.

    Returns:
        The number of bytes that were found to read.
    """
    blocks = list(_blocks(files, _available() if memory is None else memory))
    readers = [_start_reader(blocks[first::_READERS]) for first in range(_READERS)]
    for process in readers:
        os.waitpid(process, 0)
    return sum(size for _, _, size in blocks)


def _blocks(files: Iterable[Path], limit: int) -> Iterator[Block]:
    """Yield the blocks of `files`, up to `limit` bytes in all."""
    for path in files:
        with suppress(OSError):
            size = min(path.stat().st_size, limit)
            limit -= size
            for offset in range(0, size, _BLOCK):
                yield path, offset, min(_BLOCK, size - offset)


def _start_reader(blocks: Iterable[Block]) -> int:
    """Start a process that reads the blocks and exits; return its id."""
    process = os.fork()
    if process == 0:
        os.nice(_NICENESS)
        for block in blocks:
            with suppress(OSError):
                _populate(*block)
        os._exit(0)
    return process


def _populate(path: Path, offset: int, size: int) -> None:
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ, offset=offset) as mapped,
    ):
        mapped.madvise(_POPULATE_READ)
        mapped[:: mmap.PAGESIZE]  # on a virtual machine the first access to a page is slow


def _available() -> int:
    """Return how many bytes the page cache can take; 0 if this is not Linux."""
    with suppress(OSError):
        fields = dict(line.split(":", 1) for line in _MEMORY.read_text().splitlines())
        machine = int(fields["MemAvailable"].split()[0]) * 1024
        return int(_MEMORY_SHARE * min(machine, _container_limit() or machine))
    return 0


def _container_limit() -> int | None:
    """Return the container's memory limit, page cache included, in bytes; None without a limit."""
    with suppress(OSError, ValueError):  # the file says "max" without a limit
        return int(_CONTAINER_LIMIT.read_text())
    return None


if __name__ == "__main__":
    sys.stdout.write(f"{read(map(Path, sys.argv[1:]))}\n")
