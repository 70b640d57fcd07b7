"""The queue that clients and workers meet at: the store, and waiting for it to change.

Synchronous methods change something and wake who waits for it; asynchronous ones wait.
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from kontext.local.errors import QueueUnavailable
from kontext.local.jobs import Submission
from kontext.local.persistence import when_available
from kontext.local.record import Job
from kontext.local.signals import Signals
from kontext.local.store import Store

WORK, WEBHOOKS = "work", "webhooks"
TEND_SECONDS = 0.5


class Queue:
    """Jobs, and who waits for them.

    Args:
        store: The durable part.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.signals = Signals()
        self._to_stop: defaultdict[str, list[str]] = defaultdict(list)
        self._drained: set[str] = set()
        self._gone: dict[str, bool] = {}
        """Ended workers whose jobs are still to be released, and whether they died."""
        store.release_all()

    def submit(self, submission: Submission, sync: bool) -> Job:
        """Queue a job."""
        job = self.store.add(submission, sync)
        self.signals.send(WORK)
        return job

    async def finished(self, job_id: str, seconds: float) -> Job | None:
        """Return the job when it has ended, or as it is after `seconds`; nothing if unknown."""
        return await self.signals.poll(
            job_id,
            seconds,
            look=lambda: self.store.get(job_id),
            enough=lambda job: job is None or job.status.final,
        )

    async def streamed(self, job_id: str, seconds: float) -> tuple[Job, list[Any]] | None:
        """Return the job and what it has yielded since, as soon as there is any or it has ended."""
        return await self.signals.poll(
            job_id,
            seconds,
            look=lambda: self.store.read_stream(job_id),
            enough=lambda found: not found or found[0].status.final or bool(found[1]),
        )

    async def take(self, worker: str, seconds: float) -> Job | None:
        """Return the next job for a worker, or nothing after `seconds` or once it is drained."""
        return await self.signals.poll(
            WORK,
            seconds,
            look=lambda: None if worker in self._drained else self.store.take(worker),
            enough=lambda job: job is not None or worker in self._drained,
        )

    async def stops(self, worker: str, seconds: float) -> list[str]:
        """Return the jobs that a worker must stop, as soon as there are any."""
        return await self.signals.poll(
            f"stop {worker}",
            seconds,
            look=lambda: self._to_stop.pop(worker, []),
            enough=lambda job_ids: bool(job_ids) or worker in self._drained,
        )

    def drain(self, worker: str) -> None:
        """Give a worker nothing more, and end its polls, for it waits for them to exit."""
        self._drained.add(worker)
        self.signals.send(WORK)
        self.signals.send(f"stop {worker}")

    def stream(self, job_id: str, worker: str, chunk: object) -> None:
        """Keep a generator's chunk until a client reads it."""
        self.store.stream(job_id, worker, chunk)
        self.signals.send(job_id)

    def finish(self, job_id: str, worker: str, answer: dict[str, Any]) -> None:
        """Record a worker's result; from one that no longer has the job it is ignored."""
        if self.store.finish(job_id, worker, answer):
            self._ended([job_id])

    def cancel(self, job_id: str) -> Job | None:
        """Cancel a job; its worker, if it has one, is told to stop it."""
        if not (found := self.store.cancel(job_id)):
            return None
        job, running = found
        if running:
            self._stop(job)
        self._ended([job.id])
        return job

    def retry(self, job_id: str) -> tuple[Job, bool] | None:
        """Queue a failed job anew; also tell whether it was one."""
        found = self.store.retry(job_id)
        self.signals.send(WORK)
        return found

    def purge(self) -> int:
        """Cancel all that waits; return how many."""
        purged = self.store.purge()
        self._ended(purged)
        return len(purged)

    def release(self, worker: str, died: bool) -> None:
        """Hand the jobs of an ended worker to others; a poll that it left behind gets nothing.

        Args:
            worker: Its id.
            died: Whether it ended by itself, which counts against its jobs.
        """
        self._to_stop.pop(worker, None)
        self.drain(worker)
        self._gone[worker] = died
        with contextlib.suppress(QueueUnavailable):  # then `tend` does it
            self._release()

    async def tend(self) -> None:
        """End what is overdue, forget what is old and release what is orphaned, for ever."""
        while True:
            await when_available(self._release, "releasing the jobs of ended workers")
            for end in (self.store.overdue, self.store.forget):
                jobs = await when_available(end, "housekeeping")
                for job in jobs:
                    self._stop(job)
                self._ended(job.id for job in jobs)
            await asyncio.sleep(TEND_SECONDS)

    def _release(self) -> None:
        for worker, died in list(self._gone.items()):
            self._ended(self.store.release(worker, died))
            del self._gone[worker]

    def _stop(self, job: Job) -> None:
        if job.worker:
            self._to_stop[job.worker].append(job.id)
            self.signals.send(f"stop {job.worker}")

    def _ended(self, job_ids: Iterable[str]) -> None:
        for job_id in job_ids:
            self.signals.send(job_id)
            self.signals.send(WEBHOOKS)
            self.signals.send(WORK)  # the worker may take what had to wait for this to end
