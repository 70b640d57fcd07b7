"""The SDK's job loop, with job prefetch: the next job is fetched while the GPU is still busy.

The SDK's own loop either fetches nothing before a job is wholly done, and then sleeps up to a
second, or fetches as many jobs as it may at once. Its scaler is the only place to change that, and
to end its long polls, which outlive a SIGTERM by up to 90 seconds.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from runpod.http_client import ClientSession
from runpod.serverless.modules import rp_job, rp_scale
from runpod.serverless.modules.worker_state import Job

from kontext.inference.executor import GpuExecutor
from kontext.jobs.prefetch import Prefetch
from kontext.serverless.long_poll import LongPoll
from kontext.serverless.shutdown import Shutdown

CHECK_SECONDS = 0.01
"""The time between two looks at whether a job has begun."""

MAX_JOBS = 32
"""Jobs in the worker at once: `prefetch.MAX_JOBS_BEFORE_EDIT` before the GPU, one on it, and the
others on their way to a bucket or with a result that is being posted, so that 23 buckets may hang
while the GPU works. A job on that way holds at most 60 MB (its `input` 20 MB, the pixels and the
file of its largest image 17 MB each, its reference 6 MB), and so all of them 2 GB."""

MAX_THREADS = 2 * MAX_JOBS
"""Threads for encoders and name look-ups. A job needs one at a time, but a job that was cancelled
during a look-up leaves its thread busy; a name server that hangs would block all of asyncio's own
few threads."""


def install_job_loop(prefetch: Prefetch, executor: GpuExecutor, shutdown_seconds: float) -> None:
    """Make the SDK use this module's scaler when it starts its job loop.

    Args:
        prefetch: What says when the next job is to be fetched.
        executor: The GPU thread of the jobs.
        shutdown_seconds: How long a worker that shuts down may take to finish its jobs.
    """
    rp_scale.JobScaler = partial(
        Scaler, prefetch=prefetch, executor=executor, shutdown_seconds=shutdown_seconds
    )


class Scaler(rp_scale.JobScaler):  # type: ignore[misc]
    """Fetches one job at a time, when it is due, and shuts the worker down when it has to.

    Args:
        config: The SDK's configuration.
        prefetch: What says when the next job is to be fetched.
        executor: The GPU thread of the jobs.
        shutdown_seconds: How long the worker may take to finish its jobs when it shuts down.
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
        self._shutdown = Shutdown(
            self.kill_worker, self._shutdown_event, executor, shutdown_seconds
        )
        self._fetching = False
        self._job_polls = LongPoll("polls for a job")
        # Runpod need not hold these: the SDK itself pauses a second after an empty answer.
        self._stop_polls = LongPoll("polls for jobs to stop", must_be_held=False)
        self._begun: set[str] = set()
        self.jobs_fetcher = self._fetch
        # The SDK's timeout would include the time in which no job is due, and interrupt a new
        # poll, perhaps one that is just given a job. A `LongPoll` has a timeout of its own.
        self.jobs_fetcher_timeout = None
        self.stop_signals_fetcher = self._stop_signals

    async def run(self) -> None:
        """Run jobs until the worker shuts down; see `Shutdown.supervise` for how that ends."""
        threads = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="job")
        asyncio.get_running_loop().set_default_executor(threads)
        await self._shutdown.supervise(super().run())

    def is_alive(self) -> bool:
        """Return whether the loop continues; it does while a job could still arrive."""
        return self._fetching or super().is_alive()

    async def handle_job(self, session: ClientSession, job: dict[str, Any]) -> None:
        """Run one job."""
        self._begun.add(job["id"])
        try:
            await super().handle_job(session, job)
        finally:
            self._begun.discard(job["id"])  # Runpod may deliver the same job twice

    async def stop_job(self, job_id: str) -> bool:
        """Stop one job; a job that was fetched but has not begun, as soon as it begins.

        The SDK begins a job up to 0.1 s after fetching it, and until then ignores its stop signal.
        """
        while job_id not in self._begun and Job(job_id) in self.job_progress:  # noqa: ASYNC110
            await asyncio.sleep(CHECK_SECONDS)
        return bool(await super().stop_job(job_id))

    async def _handle(self, job: dict[str, Any]) -> dict[str, Any]:
        return await self._shutdown.run_handler(self._handler, job)

    async def _fetch(self, session: ClientSession, _needed: int) -> list[dict[str, Any]] | None:
        self._fetching = True
        try:
            await self._shutdown.interrupt(self._prefetch.wait_until_due())
            if self._shutdown.has_begun:
                return None
            request = partial(_get_job, session)
            jobs = await self._shutdown.interrupt(self._job_polls.ask(request))
            self._prefetch.count_fetched(len(jobs or ()))
            return jobs
        finally:
            self._fetching = False

    async def _stop_signals(self, session: ClientSession) -> list[str]:
        request = partial(rp_job.get_stop_signals, session)
        return await self._shutdown.interrupt(self._stop_polls.ask(request)) or []


async def _get_job(session: ClientSession) -> list[dict[str, Any]]:
    """Ask Runpod for one job.

    Raises:
        ValueError: The answer is something else, which would end the SDK's loop.
        Exception: Whatever the SDK raises.
    """
    jobs = await rp_job.get_job(session, 1) or []
    if not all(isinstance(job, dict) and isinstance(job.get("id"), str) for job in jobs):
        raise ValueError("the answer is not a job with an id")
    return list(jobs)
