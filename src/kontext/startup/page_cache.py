"""Files -> the page cache: a program that has the kernel read ahead, and keeps nothing.

    python -m kontext.startup.page_cache FILE...

Knows only the standard library, so that it starts at once. It only ever helps: whatever it cannot
read is left to the reader proper, which knows how to complain.
"""

import mmap
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

_READERS = 8
"""Processes that read side by side, for a disk or a network that one does not saturate."""

_NICENESS = 10
"""Whoever waits for the bytes still imports, and is not to wait for a core."""

_BLOCK = 64 << 20
"""Bytes that one of them reads before the next has its turn."""

_SHARE = 0.9
"""Of the memory that is available; the rest is for the process that needs the files."""

_POPULATE_READ = 22
"""MADV_POPULATE_READ of Linux 5.14 and later: madvise(2). Python has no name for it."""

_MEMORY = Path("/proc/meminfo")
_CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")

Block = tuple[Path, int, int]
"""A file, an offset and a size."""


def read(files: Iterable[Path], memory: int | None = None) -> int:
    """Read `files` into the page cache, in this order.

    Nothing is copied: reading into a buffer would need as much of a core as the imports do.

    Args:
        files: Those that cannot be read are passed over.
        memory: Bytes to read at most; what the machine can hold, if not given.

    Returns:
        The number of bytes that were there to be read.
    """
    blocks = list(_blocks(files, _available() if memory is None else memory))
    readers = [_reader(blocks[first::_READERS]) for first in range(_READERS)]
    for process in readers:
        os.waitpid(process, 0)
    return sum(size for _, _, size in blocks)


def _blocks(files: Iterable[Path], limit: int) -> Iterator[Block]:
    """Yield every block of `files`, up to `limit` bytes of all."""
    for path in files:
        with suppress(OSError):
            size = min(path.stat().st_size, limit)
            limit -= size
            for offset in range(0, size, _BLOCK):
                yield path, offset, min(_BLOCK, size - offset)


def _reader(blocks: Iterable[Block]) -> int:
    """Return the id of a new process that reads the blocks and ends."""
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
        mapped[:: mmap.PAGESIZE]  # on a virtual machine the first touch of a page costs


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


if __name__ == "__main__":
    sys.stdout.write(f"{read(map(Path, sys.argv[1:]))}\n")
