"""The durable queue: jobs in SQLite, so that a restart loses none.

Every method is one transaction and one step of a job. Times are seconds since the epoch. It knows
nothing of HTTP, processes or waiting.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import delete, or_

from kontext.local import queries
from kontext.local.database import Database
from kontext.local.jobs import Status, Submission
from kontext.local.queries import RUNS, WAITS
from kontext.local.record import Job, Payload

MOST_DEATHS = 3
"""Workers that may die under a job before it is given up."""

GIVEN_UP = f"The job was given up: {MOST_DEATHS} workers died that had taken it"
TOO_LONG = "executionTimeout exceeded"


class Store:
    """The queue's database.

    Args:
        path: Its file; made when it does not exist.
        clock: Tells the time.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._database = Database(path)
        self._transaction = self._database.transaction
        self._now = clock

    def add(self, submission: Submission, sync: bool) -> Job:
        """Queue a job and return it."""
        job = Job.queued(submission, sync, self._now())
        with self._transaction() as session:
            session.add(job)
        return job

    def get(self, job_id: str) -> Job | None:
        """Return a job, or nothing when it is unknown or forgotten."""
        with self._transaction() as session:
            return queries.known(session, job_id)

    def limit(self, job_id: str, seconds: float) -> None:
        """Let a job live no longer than `seconds` from now."""
        with self._transaction() as session:
            if job := queries.known(session, job_id):
                job.expires = self._now() + seconds

    def take(self, worker: str) -> Job | None:
        """Hand the next job to a worker: by priority, then by arrival.

        A job whose worker died may have killed it. It is handed to a worker that has no other, and
        that gets no other, or it would take those along and have them given up.
        """
        with self._transaction() as session:
            job, deaths = queries.next_in_turn(session), queries.most_deaths(session, worker)
            if job is None or (deaths is not None and max(deaths, job.deaths) > 0):
                return None
            job.start(worker, self._now())
            return job

    def progress(self, job_id: str, worker: str, output: object) -> None:
        """Note what a worker says while it runs the job; ignored from any other worker."""
        with self._transaction() as session:
            if job := queries.running(session, job_id, worker):
                job.answer = {"output": output}

    def stream(self, job_id: str, worker: str, chunk: object) -> None:
        """Keep a generator's chunk until a client reads it."""
        with self._transaction() as session:
            if job := queries.running(session, job_id, worker):
                job.chunks = [*job.chunks, chunk]

    def read_stream(self, job_id: str) -> tuple[Job, list[Any]] | None:
        """Return the job and the chunks that nobody has read yet."""
        with self._transaction() as session:
            if not (job := queries.known(session, job_id)):
                return None
            chunks, job.chunks = job.chunks, []
            return job, chunks

    def finish(self, job_id: str, worker: str, answer: dict[str, Any]) -> bool:
        """Record a result, once, and only from the worker that has the job."""
        with self._transaction() as session:
            if not (job := queries.running(session, job_id, worker)):
                return False
            status = Status.FAILED if "error" in answer else Status.COMPLETED
            job.end(status, answer, self._now())
            return True

    def cancel(self, job_id: str) -> tuple[Job, bool] | None:
        """End a job that has not ended; also tell whether a worker must be stopped."""
        with self._transaction() as session:
            if not (job := queries.known(session, job_id)):
                return None
            running = job.status == Status.IN_PROGRESS
            if not job.status.final:
                job.end(Status.CANCELLED, {}, self._now())
            return job, running

    def retry(self, job_id: str) -> tuple[Job, bool] | None:
        """Queue a failed job anew; also tell whether it was one."""
        with self._transaction() as session:
            if not (job := queries.known(session, job_id)):
                return None
            if retried := job.status in {Status.FAILED, Status.TIMED_OUT}:
                job.requeue()
                job.deaths = 0
            return job, retried

    def purge(self) -> list[str]:
        """Cancel every job that waits; return their ids."""
        with self._transaction() as session:
            jobs = queries.matching(session, WAITS)
            for job in jobs:
                job.end(Status.CANCELLED, {}, self._now())
            return [job.id for job in jobs]

    def release(self, worker: str, died: bool) -> list[str]:
        """Take its jobs back from a worker that has ended, told to or not; return their ids."""
        with self._transaction() as session:
            jobs = queries.matching(session, RUNS, Job.worker == worker)
            for job in jobs:
                job.deaths += died
                if job.deaths < MOST_DEATHS:
                    job.requeue()
                else:
                    job.end(Status.FAILED, {"error": GIVEN_UP}, self._now())
            return [job.id for job in jobs]

    def release_all(self) -> None:
        """Take back what a former server had handed out: its workers ended because it did."""
        with self._transaction() as session:
            for job in queries.matching(session, RUNS):
                job.requeue()

    def overdue(self) -> Sequence[Job]:
        """End the jobs that ran longer than they may; return them."""
        late = Job.started + Job.execution_timeout < self._now()
        with self._transaction() as session:
            jobs = queries.matching(session, RUNS, late)
            for job in jobs:
                job.end(Status.TIMED_OUT, {"error": TOO_LONG}, self._now())
            return jobs

    def forget(self) -> list[Job]:
        """Delete what nobody may ask for any more; return what had not ended."""
        gone = or_(Job.finished + Job.keep < self._now(), Job.expires < self._now())
        with self._transaction() as session:
            jobs = queries.matching(session, gone, Job.deliveries.is_(None))
            sequences = [job.sequence for job in jobs]
            session.execute(delete(Payload).where(Payload.job.in_(sequences)))
            session.execute(delete(Job).where(Job.sequence.in_(sequences)))
            return [job for job in jobs if not job.status.final]

    def counts(self) -> dict[str, int]:
        """Count jobs by status, and `retried`."""
        with self._transaction() as session:
            return queries.counts(session)

    def waiting(self) -> int:
        """Count the jobs that wait."""
        with self._transaction() as session:
            return queries.count_waiting(session)

    def running_workers(self) -> set[str]:
        """Name the workers that have a job."""
        with self._transaction() as session:
            return {job.worker for job in queries.matching(session, RUNS) if job.worker}

    def undelivered(self) -> Sequence[Job]:
        """Return the jobs whose webhook is still to be called."""
        with self._transaction() as session:
            return queries.matching(session, Job.deliveries.is_not(None))

    def note_delivery(self, job: Job, attempts: int | None) -> None:
        """Note how often a webhook was tried; `None` when it is done with.

        Args:
            job: As it was when it ended; if it was retried since, the note is void.
            attempts: So many.
        """
        with self._transaction() as session:
            if (now := queries.known(session, job.id)) and now.finished == job.finished:
                now.deliveries = attempts

    def close(self) -> None:
        """Close the file."""
        self._database.close()
