"""Shuts a worker down: running jobs get their time, the rest fail, and the process ends.

The SDK ends a worker only on SIGTERM. Here a worker whose job asked for another worker, or whose
GPU thread hangs, shuts down too: it fetches no more jobs, answers those that it has, and ends the
process. Does not know how jobs arrive.
"""

import asyncio
import faulthandler
import logging
import multiprocessing
import os
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NoReturn, TypeVar, cast

from kontext.inference.executor import GpuExecutor

T = TypeVar("T")

CHECK_SECONDS = 0.01
"""The time between two looks at whether the GPU thread is idle."""

LAST_POSTS_SECONDS = 5.0
"""How long the failures of interrupted jobs may take to reach Runpod."""

log = logging.getLogger("kontext")


class Shutdown:
    """The shutdown of one worker, and the handlers that it may interrupt.

    Args:
        begin: The function that makes the SDK's loop stop fetching.
        begun: The event that is set when it has to stop.
        executor: The GPU thread; it is closed when the time to finish the jobs is up.
        seconds: How long the worker may take to finish its jobs.
    """

    def __init__(
        self, begin: Callable[[], None], begun: asyncio.Event, executor: GpuExecutor, seconds: float
    ) -> None:
        self._begin = begin
        self._begun = begun
        self._executor = executor
        self._executor.on_hung = self._begin_after_hang
        self._seconds = seconds
        self._must_be_replaced = False
        self._handlers: set[asyncio.Task[Any]] = set()

    @property
    def has_begun(self) -> bool:
        """Whether the worker shuts down."""
        return self._begun.is_set()

    async def supervise(self, job_loop: Coroutine[Any, Any, None]) -> None:
        """Run the job loop until the worker shuts down, and end the process if need be.

        Returns only after a SIGTERM, when all jobs were answered in time and the GPU thread is
        idle. Otherwise the process ends here, because a thread that hangs would block Python's own
        exit.
        """
        time_limit = asyncio.create_task(self._enforce_time_limit())
        await job_loop
        # An edit that was stopped may still turn out to hang.
        while self._executor.busy and not self._executor.closed:  # noqa: ASYNC110 - a thread's to change
            await asyncio.sleep(CHECK_SECONDS)
        time_limit.cancel()
        if self._must_be_replaced or self._executor.closed:
            end_process()

    async def run_handler(
        self, handler: Callable[[dict[str, Any]], Awaitable[dict[str, Any]]], job: dict[str, Any]
    ) -> dict[str, Any]:
        """Run a job's handler; begin the shutdown if its answer asks for another worker."""
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._handlers.add(task)
        try:
            answer = await handler(job)
        finally:
            self._handlers.remove(task)
        if answer.get("refresh_worker"):
            self._must_be_replaced = True
            self._begin()
        return answer

    async def interrupt(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Return what `work` returns; cancel it and return None if the shutdown begins first."""
        tasks = asyncio.create_task(work), asyncio.create_task(self._begun.wait())
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return tasks[0].result() if tasks[0].done() else None
        finally:
            for task in tasks:
                task.cancel()

    def _begin_after_hang(self) -> None:
        """Log where the GPU thread hangs, and begin the shutdown."""
        sys.stdout.flush()
        faulthandler.dump_traceback(sys.stdout.fileno())
        self._begin()

    async def _enforce_time_limit(self) -> None:
        """After the shutdown's time limit, fail the jobs that still run and end the process."""
        await self._begun.wait()
        await asyncio.sleep(self._seconds)
        log.error("the worker's jobs were not done in %g s", self._seconds)
        self._executor.close()
        self._begin_after_hang()
        for task in self._handlers:
            task.cancel()
        await asyncio.sleep(LAST_POSTS_SECONDS)
        end_process()


def end_process() -> NoReturn:
    """End this process and its children at once, whatever its threads do.

    Python's own exit would wait for the threads. After a plain `_exit` the SDK's heartbeat process
    would live on and report a worker that no longer exists.
    """
    log.error("the worker ends, so that another one starts")
    sys.stdout.flush()
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(1)
