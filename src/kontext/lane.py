"""The GPU lane: one piece of work at a time, ever, and a cooperative stop.

A thread outlives the asyncio task that waits for it, so a cancelled job would keep the GPU while
the next one starts. Here the next one waits until the thread has let go. A thread that does not
let go cannot be ended: then the lane closes for ever, and the process has to end.
"""

import asyncio
import concurrent.futures
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from kontext.errors import Cancelled, ProcessExit, WorkerEnding

P = ParamSpec("P")
T = TypeVar("T")

STOP_SECONDS = 30.0
"""What work gets to end once it was asked to stop; longer than any step of an edit."""

log = logging.getLogger("kontext")


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
    """A single thread for everything that touches the GPU.

    Args:
        stop_seconds: How long work may go on after its stop before the lane closes.

    Attributes:
        closed: Whether nothing runs here any more.
        on_hung: Called, on the event loop's thread, when the lane closes because its work hangs.
    """

    def __init__(self, stop_seconds: float = STOP_SECONDS) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="gpu-lane")
        self._stop_seconds = stop_seconds
        self._waiting: set[asyncio.Future[None]] = set()
        self._unfinished: set[concurrent.futures.Future[Any]] = set()
        self.closed = False
        self.on_hung: Callable[[], None] = lambda: None

    @property
    def busy(self) -> bool:
        """Whether the thread has work, be it stopped or not."""
        return bool(self._unfinished)

    async def run(self, work: Callable[[Stop], T]) -> T:
        """Wait for the lane, run `work` on it and return its result.

        When the waiting task is cancelled, work that waits is dropped and work that runs is
        asked to stop; either way the lane is free for the next only when its thread is.

        Raises:
            WorkerEnding: The lane is closed, or closes before the work is done.
            ProcessExit: The work wanted to end the process.
        """
        if self.closed:
            raise WorkerEnding(WorkerEnding.example)
        stop, loop = Stop(), asyncio.get_running_loop()
        running = self._thread.submit(carrying(work), stop)
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
        """Run `work` on the lane while the calling thread waits: for the boot, before any job."""
        return self._thread.submit(work, Stop()).result()

    def close(self) -> None:
        """Fail all who wait for the lane, and all who will; on the event loop's thread only."""
        self.closed = True
        for closing in self._waiting:
            if not closing.done():
                closing.set_result(None)

    def _require_end(self, stopped: "concurrent.futures.Future[T]") -> None:
        """Close the lane if the work that was stopped still runs."""
        if stopped.done() or self.closed:
            return
        log.error("the GPU's thread has not stopped in %g s", self._stop_seconds)
        self.close()
        self.on_hung()


def carrying(work: Callable[P, T]) -> Callable[P, T]:
    """Wrap what will run on another thread, so that all that it raises reaches who awaits it.

    asyncio cannot carry a `StopIteration`, takes a library's `CancelledError` for a stopped job,
    and ends its loop on a `SystemExit`: of each the job would get no answer.
    """

    def run(*args: P.args, **named: P.kwargs) -> T:
        try:
            return work(*args, **named)
        except (StopIteration, concurrent.futures.CancelledError) as error:
            raise RuntimeError("a thread's work raised what asyncio cannot carry") from error
        except Exception:
            raise
        except (SystemExit, KeyboardInterrupt) as error:
            raise ProcessExit(ProcessExit.example) from error
        except BaseException as error:
            raise RuntimeError("a thread's work raised what asyncio cannot carry") from error

    return run
