"""What is asked of the queue's database, within a transaction of the store."""

from collections.abc import Sequence

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session, joinedload

from kontext.local.jobs import Status
from kontext.local.record import Job

WAITS, RUNS = Job.status == Status.IN_QUEUE, Job.status == Status.IN_PROGRESS


def known(session: Session, job_id: str) -> Job | None:
    """Return a job, or nothing when it is unknown or forgotten."""
    return session.scalar(select(Job).where(Job.id == job_id))


def running(session: Session, job_id: str, worker: str) -> Job | None:
    """Return a job if this worker runs it."""
    return session.scalar(select(Job).where(Job.id == job_id, Job.worker == worker, RUNS))


def matching(session: Session, *conditions: ColumnElement[bool]) -> Sequence[Job]:
    """Return all jobs that meet the conditions."""
    return session.scalars(select(Job).where(*conditions)).all()


def next_in_turn(session: Session) -> Job | None:
    """Return the job to be run next, by priority and then by arrival, with its body."""
    turns = select(Job).where(WAITS).order_by(Job.low_priority, Job.sequence)
    return session.scalar(turns.limit(1).options(joinedload(Job.payload)))


def most_deaths(session: Session, worker: str) -> int | None:
    """Return how many workers died under a job that this one runs, at most; None if it has none."""
    return session.scalar(select(func.max(Job.deaths)).where(RUNS, Job.worker == worker))


def count_waiting(session: Session) -> int:
    """Count the jobs that wait."""
    return session.scalar(select(func.count()).where(WAITS)) or 0


def counts(session: Session) -> dict[str, int]:
    """Count jobs by status, and `retried`."""
    rows = session.execute(select(Job.status, func.count()).group_by(Job.status))
    retried = session.scalar(select(func.sum(Job.retries)))
    return {"retried": retried or 0} | {str(status): count for status, count in rows}
