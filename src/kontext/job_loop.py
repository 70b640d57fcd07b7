"""The SDK's job loop, at our pace: the next job is taken while the GPU is still busy.

The SDK's own loop either takes nothing before a job is wholly done, and then sleeps up to a second,
or takes as many as it is allowed to at once. Its scaler is the one place where both can be mended,
and where its long polls, which outlive a SIGTERM by up to 90 seconds, can be ended.
"""

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from runpod.http_client import ClientSession
from runpod.serverless.modules import rp_job, rp_scale
from runpod.serverless.modules.worker_state import Job

from kontext.long_poll import LongPoll
from kontext.pace import Pace

T = TypeVar("T")

MOMENT = 0.01
"""Seconds between two looks at whether a job has begun."""

MOST_JOBS = 32
"""Jobs in the worker at once: `pace.MOST_BEFORE_LANE` before the lane, one on it, and the others on
their way to a bucket or with a result that is being posted, so that 23 buckets may hang while the
GPU works. A job on that way holds 60 MB at most (its `input` 20 MB, the pixels and the file of its
largest picture 17 MB each, its reference 6 MB), and so all of them 2 GB."""

MOST_THREADS = 2 * MOST_JOBS
"""For uploads and encoders. A job needs one at a time, but one that was cancelled amid its upload
leaves it busy; asyncio's own few would all be held by a bucket that hangs."""


def take_jobs_at(pace: Pace) -> None:
    """Make the SDK, when it starts its loop, take jobs when `pace` wants one."""
    rp_scale.JobScaler = partial(Scaler, pace=pace)


class Scaler(rp_scale.JobScaler):  # type: ignore[misc]
    """Fetches one job at a time, when it is wanted; ends its polls when told to shut down.

    Args:
        config: The SDK's.
        pace: Says when.
    """

    def __init__(self, config: dict[str, Any], pace: Pace) -> None:
        super().__init__(config)
        self._pace = pace
        self._fetching = False
        self._job_polls = LongPoll("polls for a job")
        # Runpod need not hold these: the SDK itself pauses a second after an empty answer.
        self._stop_polls = LongPoll("polls for jobs to stop", held=False)
        self._begun: set[str] = set()
        self.jobs_fetcher = self._fetch
        # It would also count the seconds in which no job is wanted, and cut a young poll short,
        # perhaps one that has just been given a job. A `LongPoll` has a limit of its own.
        self.jobs_fetcher_timeout = None
        self.stop_signals_fetcher = self._stop_signals

    async def run(self) -> None:
        """Take and run jobs until the shutdown."""
        threads = ThreadPoolExecutor(MOST_THREADS, thread_name_prefix="job")
        asyncio.get_running_loop().set_default_executor(threads)
        await super().run()

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

    async def _fetch(self, session: ClientSession, _needed: int) -> list[dict[str, Any]] | None:
        self._fetching = True
        try:
            await self._until_shutdown(self._pace.wanted())
            if self._shutdown_event.is_set():
                return None
            poll = partial(_get_job, session)
            jobs = await self._until_shutdown(self._job_polls.ask(poll))
            self._pace.fetched(len(jobs or ()))
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
