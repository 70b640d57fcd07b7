"""Jobs in each of Runpod's six states, made in a store, and a clock that a test sets."""

from collections.abc import Callable
from dataclasses import dataclass

from kontext.local.expiry import time_out_overdue
from kontext.local.job_table import Job
from kontext.local.jobs import DAY, Policy, Submission
from kontext.local.store import Store

EDIT = Submission(input={"prompt": "at night"})
NOON = 1_700_000_000.0
TEN_MINUTES, HALF_AN_HOUR, A_DAY = 600.0, 1800.0, 86_400.0
WITH_WEBHOOK = Submission.model_validate({"input": {}, "webhook": "http://example.com/done"})


@dataclass
class Clock:
    """A clock that stands still until a test sets it."""

    now: float = NOON

    def __call__(self) -> float:
        """Return the time that the test has set."""
        return self.now


def queued(store: Store) -> str:
    """Return the id of a waiting job."""
    return store.add(EDIT, sync=False).id


def running(store: Store) -> str:
    """Return the id of a job that worker `a` runs."""
    job_id = queued(store)
    store.take("a")
    return job_id


def completed(store: Store) -> str:
    """Return the id of a job that has succeeded."""
    job_id = running(store)
    store.finish(job_id, "a", {"output": {"cost": 1}})
    return job_id


def failed(store: Store) -> str:
    """Return the id of a job that has failed."""
    job_id = running(store)
    store.finish(job_id, "a", {"error": "no"})
    return job_id


def cancelled(store: Store) -> str:
    """Return the id of a cancelled job."""
    job_id = queued(store)
    store.cancel(job_id)
    return job_id


def timed_out(store: Store) -> str:
    """Return the id of a job that has timed out, at any time of the clock."""
    slow = Submission(input={}, policy=Policy.model_construct(executionTimeout=-1, ttl=DAY))
    job_id = store.add(slow, sync=False).id
    store.take("a")
    time_out_overdue(store)
    return job_id


Make = Callable[[Store], str]
ALL: list[Make] = [queued, running, completed, failed, cancelled, timed_out]
FINAL: list[Make] = [completed, failed, cancelled, timed_out]


def taken(store: Store, worker: str) -> str | None:
    """Return the id of the job that a worker takes, if it gets one."""
    job = store.take(worker)
    return job.id if job else None


def known(store: Store, job_id: str) -> Job:
    """Return a job that must exist."""
    job = store.get(job_id)
    assert job is not None
    return job


def failed_with_webhook(store: Store) -> Job:
    """Return a failed job with a webhook."""
    job_id = store.add(WITH_WEBHOOK, sync=True).id
    store.take("a")
    store.finish(job_id, "a", {"error": "no"})
    return known(store, job_id)
