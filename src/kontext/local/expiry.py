"""Ends the jobs that run too long, and deletes those whose time is over.

Knows the time limits of a job; does not know who waits for it.
"""

from collections.abc import Sequence

from sqlalchemy import delete, or_

from kontext.local.job_table import IS_RUNNING, Job, Payload, find_job, find_jobs
from kontext.local.jobs import Status
from kontext.local.store import Store

TIMEOUT_ERROR = "executionTimeout exceeded"


def set_ttl(store: Store, job_id: str, seconds: float) -> None:
    """Let a job expire in `seconds` from now; ignored for an unknown job."""
    with store.transaction() as session:
        if job := find_job(session, job_id):
            job.expires = store.now() + seconds


def time_out_overdue(store: Store) -> Sequence[Job]:
    """End and return the jobs that have run longer than their execution timeout."""
    now = store.now()
    with store.transaction() as session:
        jobs = find_jobs(session, IS_RUNNING, Job.started + Job.execution_timeout < now)
        for job in jobs:
            job.end(Status.TIMED_OUT, {"error": TIMEOUT_ERROR}, now)
        return jobs


def delete_expired(store: Store) -> list[Job]:
    """Delete old results and expired jobs; return those that were still waiting or running.

    A job whose webhook is still to be called is kept.
    """
    now = store.now()
    is_over = or_(Job.finished + Job.keep < now, Job.expires < now)
    with store.transaction() as session:
        jobs = find_jobs(session, is_over, Job.deliveries.is_(None))
        sequences = [job.sequence for job in jobs]
        session.execute(delete(Payload).where(Payload.job.in_(sequences)))
        session.execute(delete(Job).where(Job.sequence.in_(sequences)))
        return [job for job in jobs if not job.status.is_final]
