"""The GPU lane: one piece of work at a time, ever, and a cooperative stop.

A thread outlives the asyncio task that waits for it, so a cancelled job would keep the GPU while
the next one starts. Here the next one waits until the thread has let go.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from kontext.errors import Cancelled

T = TypeVar("T")


class Stop:
    """Tells the work on the lane that nobody waits for it any more."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def request(self) -> None:
        """Ask the work to end at its next `check`."""
        self._event.set()

    def check(self) -> None:
        """Raise `Cancelled` once a stop was requested."""
        if self._event.is_set():
            raise Cancelled


class Lane:
    """A single thread for everything that touches the GPU."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="gpu-lane")

    async def run(self, work: Callable[[Stop], T]) -> T:
        """Wait for the lane, run `work` on it and return its result.

        When the waiting task is cancelled, work that waits is dropped and work that runs is
        asked to stop; either way the lane is free for the next only when its thread is.
        """
        stop = Stop()
        future = self._thread.submit(work, stop)
        try:
            return await asyncio.wrap_future(future)
        finally:
            stop.request()

    def run_blocking(self, work: Callable[[Stop], T]) -> T:
        """Run `work` on the lane while the calling thread waits: for the boot, before any job."""
        return self._thread.submit(work, Stop()).result()
