"""The queue as clients and workers use it: the store, and waiting until it changes.

Synchronous methods change the store and wake the coroutines that wait; asynchronous ones wait.
Knows jobs by the store; does not know HTTP or processes.
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Iterable
from functools import partial
from typing import Any

from kontext.local import expiry
from kontext.local.job_table import Job
from kontext.local.jobs import Submission
from kontext.local.notifier import Notifier
from kontext.local.queue_unavailable import QueueUnavailable, retry_until_available
from kontext.local.store import Store

NEW_WORK, DUE_WEBHOOKS = "work", "webhooks"
"""Topics of the notifier; each job's id is one too, and `stop` with each worker's id."""

HOUSEKEEPING_PAUSE_SECONDS = 0.5


class Queue:
    """The jobs, and the coroutines that wait for them.

    Args:
        store: The store of the jobs; those that a former server left running are requeued.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.notifier = Notifier()
        self._to_stop: defaultdict[str, list[str]] = defaultdict(list)
        """Ids of the jobs that each worker must stop."""
        self._closed_workers: set[str] = set()
        """Workers that get no more jobs."""
        self._unreleased: dict[str, bool] = {}
        """Ended workers whose jobs are still to be released, and whether they died."""
        store.requeue_running()

    def submit(self, submission: Submission, sync: bool) -> Job:
        """Queue a job; `sync` tells whether it came by /runsync."""
        job = self.store.add(submission, sync)
        self.notifier.notify(NEW_WORK)
        return job

    async def wait_until_finished(self, job_id: str, seconds: float) -> Job | None:
        """Return a job when it has ended, or as it is after `seconds`; `None` if unknown."""
        return await self.notifier.poll(
            job_id,
            seconds,
            read=lambda: self.store.get(job_id),
            is_enough=lambda job: job is None or job.status.is_final,
        )

    async def wait_for_chunks(self, job_id: str, seconds: float) -> tuple[Job, list[Any]] | None:
        """Return a job and its unread chunks when there are any, it ends, or after `seconds`."""
        return await self.notifier.poll(
            job_id,
            seconds,
            read=lambda: self.store.read_chunks(job_id),
            is_enough=lambda found: not found or found[0].status.is_final or bool(found[1]),
        )

    async def take(self, worker: str, seconds: float) -> Job | None:
        """Assign the next job to a worker; `None` after `seconds` or `close_worker`."""
        return await self.notifier.poll(
            NEW_WORK,
            seconds,
            read=lambda: None if worker in self._closed_workers else self.store.take(worker),
            is_enough=lambda job: job is not None or worker in self._closed_workers,
        )

    async def wait_for_jobs_to_stop(self, worker: str, seconds: float) -> list[str]:
        """Return the ids of the jobs that a worker must stop, as soon as there are any."""
        return await self.notifier.poll(
            f"stop {worker}",
            seconds,
            read=lambda: self._to_stop.pop(worker, []),
            is_enough=lambda job_ids: bool(job_ids) or worker in self._closed_workers,
        )

    def close_worker(self, worker: str) -> None:
        """Assign no more jobs to a worker, and end its open polls: it exits only after them."""
        self._closed_workers.add(worker)
        self.notifier.notify(NEW_WORK)
        self.notifier.notify(f"stop {worker}")

    def add_chunk(self, job_id: str, worker: str, chunk: object) -> None:
        """Keep a generator's chunk until a client reads it."""
        self.store.add_chunk(job_id, worker, chunk)
        self.notifier.notify(job_id)

    def finish(self, job_id: str, worker: str, answer: dict[str, Any]) -> None:
        """Record a worker's result; ignored if the worker no longer runs the job."""
        if self.store.finish(job_id, worker, answer):
            self._notify_of_change([job_id])

    def cancel(self, job_id: str) -> Job | None:
        """Cancel a job; if a worker runs it, the worker is told to stop it."""
        if not (found := self.store.cancel(job_id)):
            return None
        job, was_running = found
        if was_running:
            self._stop(job)
        self._notify_of_change([job.id])
        return job

    def retry(self, job_id: str) -> tuple[Job, bool] | None:
        """Requeue a failed or timed out job; return it, and whether it was one."""
        found = self.store.retry(job_id)
        self.notifier.notify(NEW_WORK)
        return found

    def purge(self) -> int:
        """Cancel every waiting job; return how many there were."""
        purged = self.store.purge()
        self._notify_of_change(purged)
        return len(purged)

    def release(self, worker: str, died: bool) -> None:
        """Requeue or fail the jobs of a worker that has ended, and end its open polls.

        Args:
            worker: The worker's id.
            died: Whether it ended by itself, which counts against its jobs.
        """
        self._to_stop.pop(worker, None)
        self.close_worker(worker)
        self._unreleased[worker] = died
        with contextlib.suppress(QueueUnavailable):  # then `run_housekeeping` does it
            self._release_all()

    async def run_housekeeping(self) -> None:
        """Release, time out and delete jobs, twice a second, until cancelled."""
        while True:
            await retry_until_available(self._release_all, "releasing the jobs of ended workers")
            for end in (expiry.time_out_overdue, expiry.delete_expired):
                jobs = await retry_until_available(partial(end, self.store), "housekeeping")
                for job in jobs:
                    self._stop(job)
                self._notify_of_change(job.id for job in jobs)
            await asyncio.sleep(HOUSEKEEPING_PAUSE_SECONDS)

    def _release_all(self) -> None:
        for worker, died in list(self._unreleased.items()):
            self._notify_of_change(self.store.release(worker, died))
            del self._unreleased[worker]

    def _stop(self, job: Job) -> None:
        if job.worker:
            self._to_stop[job.worker].append(job.id)
            self.notifier.notify(f"stop {job.worker}")

    def _notify_of_change(self, job_ids: Iterable[str]) -> None:
        for job_id in job_ids:
            self.notifier.notify(job_id)
            self.notifier.notify(DUE_WEBHOOKS)
            self.notifier.notify(NEW_WORK)  # it is queued again, or another waited for its end
