"""Runs blocking calls in threads, so that one that hangs delays neither its job nor the exit.

asyncio's own threads are few and shared by the whole worker: one that hangs is lost to all, and
Python waits for it at exit. Knows threads; does not know the calls.
"""

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Callable
from functools import partial
from typing import ParamSpec, TypeVar

from kontext.errors import UnexpectedExit

P = ParamSpec("P")
T = TypeVar("T")


def deliver_errors(work: Callable[P, T]) -> Callable[P, T]:
    """Wrap a call for another thread, so that whatever it raises reaches the code that awaits it.

    asyncio cannot deliver a `StopIteration`, takes a library's `CancelledError` for a cancelled
    job, and ends its loop on a `SystemExit`. In each case the job would never be answered.
    """

    def run(*args: P.args, **named: P.kwargs) -> T:
        try:
            return work(*args, **named)
        except (StopIteration, concurrent.futures.CancelledError) as error:
            raise RuntimeError("a thread's work raised what asyncio cannot carry") from error
        except Exception:
            raise
        except (SystemExit, KeyboardInterrupt) as error:
            raise UnexpectedExit from error
        except BaseException as error:
            raise RuntimeError("a thread's work raised what asyncio cannot carry") from error

    return run


class DaemonThreads:
    """Runs each call in its own daemon thread.

    Args:
        max_calls: The number of calls at once; one that is no longer awaited counts until it ends.
    """

    def __init__(self, max_calls: int) -> None:
        self._free = asyncio.Semaphore(max_calls)

    async def run(self, work: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
        """Wait until fewer than `max_calls` run, call `work` in a thread and return its result."""
        await self._free.acquire()
        outcome: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        call = partial(work, *args, **named)
        threading.Thread(target=self._call, args=(call, outcome), daemon=True).start()
        return await outcome

    def _call(self, work: Callable[[], T], outcome: asyncio.Future[T]) -> None:
        result, failure = None, None
        try:
            result = deliver_errors(work)()
        except Exception as error:  # noqa: BLE001 - raised where the result is awaited
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process exits
            outcome.get_loop().call_soon_threadsafe(self._finish, outcome, result, failure)

    def _finish(
        self, outcome: asyncio.Future[T], result: T | None, error: Exception | None
    ) -> None:
        self._free.release()
        if outcome.done():  # cancelled meanwhile
            return
        if error:
            outcome.set_exception(error)
        else:
            outcome.set_result(result)  # type: ignore[arg-type]
