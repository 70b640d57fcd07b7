"""Blocking calls that nobody can end: in threads that hold up neither their job nor the exit.

asyncio's own threads are few and shared by all that a worker does; each one that hangs is missing
there, and Python waits for them when it ends. Knows nothing of what is called.
"""

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from kontext.errors import UnexpectedExit

P = ParamSpec("P")
T = TypeVar("T")


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
            raise UnexpectedExit from error
        except BaseException as error:
            raise RuntimeError("a thread's work raised what asyncio cannot carry") from error

    return run


class DaemonThreads:
    """Runs each call in a thread of its own.

    Args:
        most: Calls at once; a call that nobody awaits any more counts until it ends.
    """

    def __init__(self, most: int) -> None:
        self._free = asyncio.Semaphore(most)

    async def run(self, work: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
        """Wait for a free thread, call `work` in it and return its result."""
        await self._free.acquire()
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[T] = loop.create_future()

        def deliver(result: T | None, error: Exception | None) -> None:
            self._free.release()
            if outcome.done():  # cancelled meanwhile
                return
            if error:
                outcome.set_exception(error)
            else:
                outcome.set_result(result)  # type: ignore[arg-type]

        def run() -> None:
            result, failure = None, None
            try:
                result = carrying(work)(*args, **named)
            except Exception as error:  # noqa: BLE001 - it is raised where it is awaited
                failure = error
            with contextlib.suppress(RuntimeError):  # the loop, and so the process, has ended
                loop.call_soon_threadsafe(deliver, result, failure)

        threading.Thread(target=run, daemon=True).start()
        return await outcome
