"""The GPU executor: one piece of work at a time, ever, and a cooperative stop.

A thread outlives the asyncio task that waits for it, so a cancelled job would keep the GPU while
the next one starts. Here the next one waits until the thread has let go. A thread that does not
let go cannot be ended: then the executor closes for ever, and the process has to end.
"""

import asyncio
import concurrent.futures
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from kontext.errors import Cancelled, WorkerEnding
from kontext.settings import STOP_TIMEOUT_SECONDS
from kontext.threads import deliver_errors

T = TypeVar("T")

log = logging.getLogger("kontext")


class Stop:
    """Tells the work on the executor that nobody waits for it any more."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def request(self) -> None:
        """Ask the work to end at its next `check`."""
        self._event.set()

    def check(self) -> None:
        """Raise `Cancelled` once a stop was requested."""
        if self._event.is_set():
            raise Cancelled


class GpuExecutor:
    """A single thread for everything that touches the GPU.

    Args:
        stop_timeout_seconds: How long work may go on after its stop before the executor closes.

    Attributes:
        closed: Whether nothing runs here any more. on_hung: Called, on the event loop's thread,
        when the executor closes because its work hangs.
    """

    def __init__(self, stop_timeout_seconds: float = STOP_TIMEOUT_SECONDS) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="gpu-executor")
        self._stop_seconds = stop_timeout_seconds
        self._waiting: set[asyncio.Future[None]] = set()
        self._unfinished: set[concurrent.futures.Future[Any]] = set()
        self.closed = False
        self.on_hung: Callable[[], None] = lambda: None

    @property
    def busy(self) -> bool:
        """Whether the thread has work, be it stopped or not."""
        return bool(self._unfinished)

    async def run(self, work: Callable[[Stop], T]) -> T:
        """Wait for the executor, run `work` on it and return its result.

        When the waiting task is cancelled, work that waits is dropped and work that runs is
        asked to stop; either way the executor is free for the next only when its thread is.

        Raises:
            WorkerEnding: The executor is closed, or closes before the work is done.
            ProcessExit: The work wanted to end the process.
        """
        if self.closed:
            raise WorkerEnding(WorkerEnding.example)
        stop, loop = Stop(), asyncio.get_running_loop()
        running = self._thread.submit(deliver_errors(work), stop)
        self._unfinished.add(running)
        running.add_done_callback(self._unfinished.discard)
        outcome, closing = asyncio.wrap_future(running), loop.create_future()
        self._waiting.add(closing)
        try:
            await asyncio.wait({outcome, closing}, return_when=asyncio.FIRST_COMPLETED)
            if not outcome.done():
                raise WorkerEnding(WorkerEnding.example)
            return outcome.result()
        finally:
            self._waiting.discard(closing)
            stop.request()
            if not outcome.done():
                outcome.cancel()
                loop.call_later(self._stop_seconds, self._require_end, running)

    def run_blocking(self, work: Callable[[Stop], T]) -> T:
        """Run `work` on the executor while the calling thread waits, at boot before any job."""
        return self._thread.submit(work, Stop()).result()

    def close(self) -> None:
        """Fail all who wait for the executor, and all who will; on the event loop's thread only."""
        self.closed = True
        for closing in self._waiting:
            if not closing.done():
                closing.set_result(None)

    def _require_end(self, stopped: "concurrent.futures.Future[T]") -> None:
        """Close the executor if the work that was stopped still runs."""
        if stopped.done() or self.closed:
            return
        log.error("the GPU's thread has not stopped in %g s", self._stop_seconds)
        self.close()
        self.on_hung()
