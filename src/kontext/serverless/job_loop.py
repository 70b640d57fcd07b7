"""The SDK's job loop, with job prefetch: the next job is taken while the GPU is still busy.

The SDK's own loop either takes nothing before a job is wholly done, and then sleeps up to a second,
or takes as many as it is allowed to at once. Its scaler is the one place where both can be mended,
and where its long polls, which outlive a SIGTERM by up to 90 seconds, can be ended.

The SDK also never ends a worker by itself. Here one whose job asked for another worker, or whose
executor hangs, takes no more jobs, answers those that it holds, and ends the process.
"""

import asyncio
import faulthandler
import logging
import multiprocessing
import os
import sys
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NoReturn, TypeVar, cast

from runpod.http_client import ClientSession
from runpod.serverless.modules import rp_job, rp_scale
from runpod.serverless.modules.worker_state import Job

from kontext.inference.executor import GpuExecutor
from kontext.jobs.prefetch import Prefetch
from kontext.serverless.long_poll import LongPoll

T = TypeVar("T")

MOMENT = 0.01
"""Seconds between two looks at whether a job has begun."""

MOST_JOBS = 32
"""Jobs in the worker at once: `prefetch.MOST_BEFORE_EDIT` before the executor, one on it, and the
others on their way to a bucket or with a result that is being posted, so that 23 buckets may hang
while the GPU works. A job on that way holds 60 MB at most (its `input` 20 MB, the pixels and the
file of its largest image 17 MB each, its reference 6 MB), and so all of them 2 GB."""

MOST_THREADS = 2 * MOST_JOBS
"""For encoders and look-ups of names. A job needs one at a time, but one that was cancelled amid a
look-up leaves it busy; asyncio's own few would all be held by a name server that hangs."""

LAST_POSTS_SECONDS = 5.0
"""What the answers of jobs that were cut off get to reach Runpod."""

log = logging.getLogger("kontext")


def take_jobs(prefetch: Prefetch, executor: GpuExecutor, shutdown_seconds: float) -> None:
    """Make the SDK, when it starts its loop, take jobs when `prefetch` wants one.

    Args:
        prefetch: Says when.
        executor: Where the jobs edit.
        shutdown_seconds: What a worker that must end gets to finish its jobs.
    """
    rp_scale.JobScaler = partial(
        Scaler, prefetch=prefetch, executor=executor, shutdown_seconds=shutdown_seconds
    )


class Scaler(rp_scale.JobScaler):  # type: ignore[misc]
    """Fetches one job at a time, when it is wanted; ends the worker when it must end.

    Args:
        config: The SDK's.
        prefetch: Says when a job is wanted.
        executor: Where the jobs edit; closed when the worker's time to finish them is up.
        shutdown_seconds: That time.
    """

    def __init__(
        self,
        config: dict[str, Any],
        prefetch: Prefetch,
        executor: GpuExecutor,
        shutdown_seconds: float,
    ) -> None:
        super().__init__({**config, "handler": self._handle})
        self._handler = config["handler"]
        self._prefetch = prefetch
        self._executor = executor
        self._executor.on_hung = self._end_hung
        self._shutdown_seconds = shutdown_seconds
        self._fetching = False
        self._must_be_replaced = False
        self._job_polls = LongPoll("polls for a job")
        # Runpod need not hold these: the SDK itself pauses a second after an empty answer.
        self._stop_polls = LongPoll("polls for jobs to stop", held=False)
        self._begun: set[str] = set()
        self._handling: set[asyncio.Task[Any]] = set()
        self.jobs_fetcher = self._fetch
        # It would also count the seconds in which no job is wanted, and cut a young poll short,
        # perhaps one that has just been given a job. A `LongPoll` has a limit of its own.
        self.jobs_fetcher_timeout = None
        self.stop_signals_fetcher = self._stop_signals

    async def run(self) -> None:
        """Run jobs until the worker is told to end or must be replaced.

        A worker that was told to end returns when its jobs are answered, as long as that takes no
        more than its time; every other end is the end of the process here, since a thread that
        hangs would hold up Python's own.
        """
        threads = ThreadPoolExecutor(MOST_THREADS, thread_name_prefix="job")
        asyncio.get_running_loop().set_default_executor(threads)
        timekeeper = asyncio.create_task(self._end_in_time())
        await super().run()
        # An edit that was stopped may yet turn out to hang.
        while self._executor.busy and not self._executor.closed:  # noqa: ASYNC110 - a thread's to change
            await asyncio.sleep(MOMENT)
        timekeeper.cancel()
        if self._must_be_replaced or self._executor.closed:
            end_process()

    def is_alive(self) -> bool:
        """Tell whether the loop goes on: also while a job could still arrive."""
        return self._fetching or super().is_alive()

    async def handle_job(self, session: ClientSession, job: dict[str, Any]) -> None:
        """Run one job."""
        self._begun.add(job["id"])
        try:
            await super().handle_job(session, job)
        finally:
            self._begun.discard(job["id"])  # which Runpod may deliver twice

    async def stop_job(self, job_id: str) -> bool:
        """Stop one job; one that has been taken but has not begun, as soon as it begins.

        The SDK begins it up to 0.1 s after it was taken, and would drop the signal until then.
        """
        while job_id not in self._begun and Job(job_id) in self.job_progress:  # noqa: ASYNC110
            await asyncio.sleep(MOMENT)
        return bool(await super().stop_job(job_id))

    async def _handle(self, job: dict[str, Any]) -> dict[str, Any]:
        """Run the handler; after an answer that asks for another worker no job is taken."""
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._handling.add(task)
        try:
            answer: dict[str, Any] = await self._handler(job)
        finally:
            self._handling.remove(task)
        if answer.get("refresh_worker"):
            self._must_be_replaced = True
            self.kill_worker()
        return answer

    def _end_hung(self) -> None:
        """End the worker, whose executor is closed; its log says where the thread hangs."""
        sys.stdout.flush()
        faulthandler.dump_traceback(sys.stdout.fileno())
        self.kill_worker()

    async def _end_in_time(self) -> None:
        """Once the worker must end, cut off what takes too long, and end the process."""
        await self._shutdown_event.wait()
        await asyncio.sleep(self._shutdown_seconds)
        log.error("the worker's jobs were not done in %g s", self._shutdown_seconds)
        self._executor.close()
        self._end_hung()
        for task in self._handling:
            task.cancel()
        await asyncio.sleep(LAST_POSTS_SECONDS)
        end_process()

    async def _fetch(self, session: ClientSession, _needed: int) -> list[dict[str, Any]] | None:
        self._fetching = True
        try:
            await self._until_shutdown(self._prefetch.wanted())
            if self._shutdown_event.is_set():
                return None
            poll = partial(_get_job, session)
            jobs = await self._until_shutdown(self._job_polls.ask(poll))
            self._prefetch.fetched(len(jobs or ()))
            return jobs
        finally:
            self._fetching = False

    async def _stop_signals(self, session: ClientSession) -> list[str]:
        poll = partial(rp_job.get_stop_signals, session)
        return await self._until_shutdown(self._stop_polls.ask(poll)) or []

    async def _until_shutdown(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Return what `work` returns, or nothing when the shutdown comes first."""
        tasks = asyncio.create_task(work), asyncio.create_task(self._shutdown_event.wait())
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return tasks[0].result() if tasks[0].done() else None
        finally:
            for task in tasks:
                task.cancel()


def end_process() -> NoReturn:
    """End this process and its children now, whatever its threads do.

    Python's own end would wait for them, and the SDK's heartbeat would outlive a plain `_exit`
    and report a worker that is gone.
    """
    log.error("the worker ends, so that another one starts")
    sys.stdout.flush()
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(1)


async def _get_job(session: ClientSession) -> list[dict[str, Any]]:
    """Ask for one job.

    Raises:
        ValueError: The answer is something else, which would end the SDK's loop.
        Exception: Whatever the SDK raises.
    """
    jobs = await rp_job.get_job(session, 1) or []
    if not all(isinstance(job, dict) and isinstance(job.get("id"), str) for job in jobs):
        raise ValueError("the answer is not a job with an id")
    return list(jobs)
