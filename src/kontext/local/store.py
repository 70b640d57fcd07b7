"""The durable queue: jobs in a SQLite file, so that a restart of the server loses none.

Each method is one transaction. Times are in seconds since the epoch. Knows the file and the steps
of a job; does not know HTTP, processes or who waits for a job.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, create_engine, event
from sqlalchemy.exc import DatabaseError
from sqlalchemy.orm import Session

from kontext.local import job_table
from kontext.local.dead_worker_retries import may_run_together, requeue_or_fail
from kontext.local.job_table import IS_RUNNING, IS_WAITING, Job, find_job, find_running_job
from kontext.local.jobs import Status, Submission
from kontext.local.queue_unavailable import QueueUnavailable

LOCK_TIMEOUT_SECONDS = 0.5
"""How long a transaction waits while another process locks the file; it blocks the server."""


class Store:
    """The queue's file; every method and `transaction` may raise QueueUnavailable.

    Args:
        path: Path of the file; created if there is none.
        clock: A function that returns the current time.

    Raises:
        QueueUnavailable: The file cannot be opened.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        url = URL.create("sqlite", database=str(path))
        self._engine = create_engine(url, connect_args={"timeout": LOCK_TIMEOUT_SECONDS})
        event.listen(self._engine, "connect", _set_durability)
        self.now = clock
        with _translated_errors():
            job_table.Base.metadata.create_all(self._engine)

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """Commit at the end of the block; the objects that it loaded stay readable.

        Raises:
            QueueUnavailable: Nothing was changed.
        """
        with (
            _translated_errors(),
            Session(self._engine, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session

    def close(self) -> None:
        """Close the file."""
        self._engine.dispose()

    def add(self, submission: Submission, sync: bool) -> Job:
        """Queue a job and return it."""
        job = Job.from_submission(submission, sync, self.now())
        with self.transaction() as session:
            session.add(job)
        return job

    def get(self, job_id: str) -> Job | None:
        """Return a job, or `None` if it is unknown or was deleted."""
        with self.transaction() as session:
            return find_job(session, job_id)

    def take(self, worker: str) -> Job | None:
        """Assign the next job to a worker, by priority and then by arrival, and return it."""
        with self.transaction() as session:
            job = job_table.next_waiting_job(session)
            deaths = job_table.most_deaths(session, worker)
            if job is None or not may_run_together(job, deaths):
                return None
            job.start(worker, self.now())
            return job

    def record_progress(self, job_id: str, worker: str, output: object) -> None:
        """Show `output` while the job runs; ignored unless this worker runs the job."""
        with self.transaction() as session:
            if job := find_running_job(session, job_id, worker):
                job.answer = {"output": output}

    def add_chunk(self, job_id: str, worker: str, chunk: object) -> None:
        """Keep a generator's chunk until a client reads it; ignored as in `record_progress`."""
        with self.transaction() as session:
            if job := find_running_job(session, job_id, worker):
                job.chunks = [*job.chunks, chunk]

    def read_chunks(self, job_id: str) -> tuple[Job, list[Any]] | None:
        """Return a job and the chunks that no client has read yet."""
        with self.transaction() as session:
            if not (job := find_job(session, job_id)):
                return None
            chunks, job.chunks = job.chunks, []
            return job, chunks

    def finish(self, job_id: str, worker: str, answer: dict[str, Any]) -> bool:
        """Record a result; return whether this worker was running the job, else do nothing."""
        with self.transaction() as session:
            if not (job := find_running_job(session, job_id, worker)):
                return False
            status = Status.FAILED if "error" in answer else Status.COMPLETED
            job.end(status, answer, self.now())
            return True

    def cancel(self, job_id: str) -> tuple[Job, bool] | None:
        """Cancel a job unless it has ended; return it, and whether it was running."""
        with self.transaction() as session:
            if not (job := find_job(session, job_id)):
                return None
            was_running = job.status == Status.IN_PROGRESS
            if not job.status.is_final:
                job.end(Status.CANCELLED, {}, self.now())
            return job, was_running

    def retry(self, job_id: str) -> tuple[Job, bool] | None:
        """Requeue a failed or timed out job; return it, and whether it was one."""
        with self.transaction() as session:
            if not (job := find_job(session, job_id)):
                return None
            if retried := job.status in {Status.FAILED, Status.TIMED_OUT}:
                job.requeue()
                job.deaths = 0
            return job, retried

    def purge(self) -> list[str]:
        """Cancel every waiting job; return their ids."""
        with self.transaction() as session:
            jobs = job_table.find_jobs(session, IS_WAITING)
            for job in jobs:
                job.end(Status.CANCELLED, {}, self.now())
            return [job.id for job in jobs]

    def release(self, worker: str, died: bool) -> list[str]:
        """Requeue or fail the jobs of a worker that has ended; return their ids."""
        with self.transaction() as session:
            jobs = job_table.find_jobs(session, IS_RUNNING, Job.worker == worker)
            for job in jobs:
                requeue_or_fail(job, died, self.now())
            return [job.id for job in jobs]

    def requeue_running(self) -> None:
        """Requeue the jobs of a former server, whose workers ended when it did."""
        with self.transaction() as session:
            for job in job_table.find_jobs(session, IS_RUNNING):
                job.requeue()

    def counts(self) -> dict[str, int]:
        """Return the number of jobs by status, and under `retried` that of all retries."""
        with self.transaction() as session:
            return job_table.count_by_status(session)

    def count_waiting(self) -> int:
        """Return how many jobs wait."""
        with self.transaction() as session:
            return job_table.count_waiting(session)

    def running_workers(self) -> set[str]:
        """Return the ids of the workers that run a job."""
        with self.transaction() as session:
            return {job.worker for job in job_table.find_jobs(session, IS_RUNNING) if job.worker}

    def due_webhooks(self) -> Sequence[Job]:
        """Return the jobs whose webhook is still to be called."""
        with self.transaction() as session:
            return job_table.find_jobs(session, Job.deliveries.is_not(None))

    def record_delivery(self, job: Job, attempts: int | None) -> None:
        """Record how often a webhook was called; ignored if the job was retried since.

        Args:
            job: The job as it was when it ended.
            attempts: The number of calls; `None` when no other is to be made.
        """
        with self.transaction() as session:
            if (now := find_job(session, job.id)) and now.finished == job.finished:
                now.deliveries = attempts


@contextmanager
def _translated_errors() -> Iterator[None]:
    try:
        yield
    except DatabaseError as error:
        raise QueueUnavailable(error.orig) from error


def _set_durability(connection: Any, _record: object) -> None:  # noqa: ANN401 - the DB-API's
    """Let every commit survive the death of the process, without waiting for the disk at each."""
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
