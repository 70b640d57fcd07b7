"""The store beside a model of it: clients, workers, deaths and restarts in any order."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from kontext.local.dead_worker_retries import MAX_DEATHS
from kontext.local.expiry import time_out_overdue
from kontext.local.jobs import DAY, Policy, Status, Submission
from kontext.local.queue import Queue
from kontext.local.store import Store
from tests.local.stored_jobs import Clock


@dataclass
class Expected:
    """A job as the model expects it."""

    order: tuple[bool, int]
    status: Status = Status.IN_QUEUE
    worker: str | None = None
    deaths: int = 0


class Machine(RuleBasedStateMachine):
    """Runs clients, workers, deaths and restarts in any order, on a store and on a simple model.

    A job that is lost, ended twice or brought into a wrong state differs from the model.
    """

    ids = Bundle("ids")
    workers = st.sampled_from(["a", "b"])

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.clock = Clock()
        self.jobs: dict[str, Expected] = {}
        self.open()

    def open(self) -> None:
        """Open the file, as a restarted server does."""
        self.store = Store(Path(self.directory.name) / "queue.sqlite", self.clock)

    def of(self, status: Status) -> list[Expected]:
        """Return the jobs in a state, in the order in which they are run."""
        jobs = sorted(self.jobs.values(), key=lambda job: job.order)
        return [job for job in jobs if job.status == status]

    @rule(target=ids, low=st.booleans())
    def add(self, low: bool) -> str:
        """A client submits a job."""
        policy = Policy(lowPriority=low, ttl=7 * DAY)
        job = self.store.add(Submission(input={}, policy=policy), sync=False)
        self.jobs[job.id] = Expected((low, len(self.jobs)))
        return job.id

    @rule(worker=workers)
    def take(self, worker: str) -> None:
        """A worker asks for a job."""
        taken = self.store.take(worker)
        held = [job for job in self.of(Status.IN_PROGRESS) if job.worker == worker]
        waiting = self.of(Status.IN_QUEUE)
        suspects = any(job.deaths for job in held) or any(job.deaths for job in waiting[:1])
        if not waiting or (held and suspects):
            assert taken is None
            return
        assert taken is not None
        assert self.jobs[taken.id] is waiting[0]
        waiting[0].status, waiting[0].worker = Status.IN_PROGRESS, worker

    @rule(job_id=ids, worker=workers, answer=st.sampled_from([{"output": 1}, {"error": "no"}]))
    def finish(self, job_id: str, worker: str, answer: dict[str, Any]) -> None:
        """A worker posts a result, for its own job or for another."""
        job = self.jobs[job_id]
        is_its_own = job.status == Status.IN_PROGRESS and job.worker == worker
        assert self.store.finish(job_id, worker, answer) == is_its_own
        if is_its_own:
            job.status = Status.FAILED if "error" in answer else Status.COMPLETED

    @rule(job_id=ids)
    def cancel(self, job_id: str) -> None:
        """A client cancels a job."""
        self.store.cancel(job_id)
        if not self.jobs[job_id].status.is_final:
            self.jobs[job_id].status = Status.CANCELLED

    @rule(job_id=ids)
    def retry(self, job_id: str) -> None:
        """A client retries a job."""
        self.store.retry(job_id)
        if self.jobs[job_id].status in {Status.FAILED, Status.TIMED_OUT}:
            self.jobs[job_id].status, self.jobs[job_id].deaths = Status.IN_QUEUE, 0

    @rule()
    def purge(self) -> None:
        """A client purges the queue."""
        assert len(self.store.purge()) == len(self.of(Status.IN_QUEUE))
        for job in self.of(Status.IN_QUEUE):
            job.status = Status.CANCELLED

    @rule(worker=workers, died=st.booleans())
    def end(self, worker: str, died: bool) -> None:
        """A worker dies or is shut down."""
        self.store.release(worker, died)
        for job in self.of(Status.IN_PROGRESS):
            if job.worker == worker:
                job.deaths += died
                job.status = Status.FAILED if job.deaths == MAX_DEATHS else Status.IN_QUEUE

    @rule()
    def restart(self) -> None:
        """The server dies and is restarted."""
        self.store.close()
        self.open()
        Queue(self.store)
        for job in self.of(Status.IN_PROGRESS):
            job.status = Status.IN_QUEUE

    @rule()
    def wait(self) -> None:
        """Eleven minutes pass, and overdue jobs time out."""
        self.clock.now += 660
        overdue = self.of(Status.IN_PROGRESS)
        assert len(time_out_overdue(self.store)) == len(overdue)
        for job in overdue:
            job.status = Status.TIMED_OUT

    @invariant()
    def store_and_model_agree(self) -> None:
        """Every job exists once, in the state that the model expects."""
        found = {job_id: self.store.get(job_id) for job_id in self.jobs}
        assert {job_id: job and job.status for job_id, job in found.items()} == {
            job_id: job.status for job_id, job in self.jobs.items()
        }
        counts = self.store.counts()
        assert sum(counts.values()) - counts["retried"] == len(self.jobs)

    def teardown(self) -> None:
        """Remove the file."""
        self.store.close()
        self.directory.cleanup()


def test_no_order_of_events_loses_or_doubles_a_job() -> None:
    """Store and model agree after every step of any sequence."""
    run_state_machine_as_test(
        Machine, settings=settings(max_examples=40, stateful_step_count=30, deadline=None)
    )
