"""Runs everything that touches the GPU on a single thread, one piece of work at a time.

Work on a thread goes on after the asyncio task that waits for it is cancelled. So a cancelled job
asks its work to stop, and the next work starts only when it has. A thread that hangs cannot be
ended: the executor then closes for good, and the process must be replaced. Does not know torch,
images or jobs.
"""

import asyncio
import concurrent.futures
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from kontext.errors import Cancelled, WorkerShutdown
from kontext.settings import STOP_TIMEOUT_SECONDS
from kontext.threads import deliver_errors

T = TypeVar("T")

log = logging.getLogger("kontext")


class Stop:
    """Asks work on the GPU thread to stop, because its result is no longer wanted."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def request(self) -> None:
        """Make the work's next `check` raise."""
        self._event.set()

    def check(self) -> None:
        """Return, or raise `Cancelled` if the work should stop."""
        if self._event.is_set():
            raise Cancelled


class GpuExecutor:
    """The thread that everything that touches the GPU runs on.

    Args:
        stop_timeout_seconds: The time that work may take to stop before the executor closes.

    Attributes:
        closed: Whether the executor accepts no more work.
        on_hung: The function that is called, on the event loop's thread, when the executor closes
            because its work hangs.
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
        """Whether work runs or waits, including work that was asked to stop."""
        return bool(self._unfinished)

    async def run(self, work: Callable[[Stop], T]) -> T:
        """Run `work` on the GPU thread, after all earlier work, and return its result.

        If the waiting task is cancelled, work that has not begun is dropped, and work that runs is
        asked to stop. The next work begins only when it has.

        Args:
            work: The function to call; it should call `Stop.check` often.

        Raises:
            WorkerShutdown: The executor is closed, or closes before the work is done.
            UnexpectedExit: The work raised `SystemExit` or `KeyboardInterrupt`.
        """
        if self.closed:
            raise WorkerShutdown
        stop, loop = Stop(), asyncio.get_running_loop()
        running = self._thread.submit(deliver_errors(work), stop)
        self._unfinished.add(running)
        running.add_done_callback(self._unfinished.discard)
        outcome, closing = asyncio.wrap_future(running), loop.create_future()
        self._waiting.add(closing)
        try:
            await asyncio.wait({outcome, closing}, return_when=asyncio.FIRST_COMPLETED)
            if not outcome.done():
                raise WorkerShutdown
            return outcome.result()
        finally:
            self._waiting.discard(closing)
            stop.request()
            if not outcome.done():
                outcome.cancel()
                loop.call_later(self._stop_seconds, self._close_if_hung, running)

    def run_blocking(self, work: Callable[[Stop], T]) -> T:
        """Run `work` on the GPU thread and wait for it, at boot, before any job."""
        return self._thread.submit(work, Stop()).result()

    def close(self) -> None:
        """Make all pending and future calls of `run` fail; call it on the event loop's thread."""
        self.closed = True
        for closing in self._waiting:
            if not closing.done():
                closing.set_result(None)

    def _close_if_hung(self, stopped: "concurrent.futures.Future[T]") -> None:
        """Close the executor if work that was asked to stop still runs."""
        if stopped.done() or self.closed:
            return
        log.error("the GPU's thread has not stopped in %g s", self._stop_seconds)
        self.close()
        self.on_hung()
