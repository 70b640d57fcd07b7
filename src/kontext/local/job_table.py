"""The table of jobs: its columns, the allowed changes of a job's state, and the queries.

Knows SQLAlchemy's session; does not know when a transaction begins or ends.
"""

import uuid
from collections.abc import Sequence
from typing import Any, Self

from sqlalchemy import JSON, ColumnElement, ForeignKey, Index, func, select
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    joinedload,
    mapped_column,
    relationship,
)

from kontext.local.jobs import SECOND, Status, Submission

KEEP_RUN_SECONDS, KEEP_RUNSYNC_SECONDS = 30 * 60.0, 60.0
"""How long results of /run and /runsync are kept, as Runpod does."""


class Base(DeclarativeBase):
    """SQLAlchemy's registry of the two tables."""

    type_annotation_map = {dict[str, Any]: JSON, list[Any]: JSON}  # noqa: RUF012


class Job(Base):
    """A job; times in seconds since the epoch.

    Attributes:
        sequence: Order of arrival.
        id: Id in Runpod's form, `sync-<uuid>-u1` or `<uuid>-u1`.
        keep: Seconds that the result is kept.
        expires: Time at which the job is deleted, whatever its state.
        deaths: Workers that died while they ran the job, since a client queued or retried it.
        retries: How often the job went back to the queue.
        deliveries: Attempts made at the webhook; `None` when none is due.
        answer: The `output` and `error` that a worker posted, as far as present.
        chunks: Chunks that a generator has yielded and no client has read yet.
    """

    __tablename__ = "jobs"
    __table_args__ = (Index("by_turn", "status", "low_priority", "sequence"),)

    sequence: Mapped[int] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(unique=True)
    status: Mapped[Status]
    webhook: Mapped[str | None]
    low_priority: Mapped[bool]
    execution_timeout: Mapped[float]
    keep: Mapped[float]
    created: Mapped[float]
    expires: Mapped[float]
    started: Mapped[float | None]
    finished: Mapped[float | None]
    worker: Mapped[str | None] = mapped_column(index=True)
    deaths: Mapped[int] = mapped_column("attempts", default=0)  # the name in older files
    retries: Mapped[int] = mapped_column(default=0)
    deliveries: Mapped[int | None]
    answer: Mapped[dict[str, Any]] = mapped_column(default=dict)
    chunks: Mapped[list[Any]] = mapped_column(default=list)
    payload: Mapped["Payload"] = relationship(lazy="raise")

    @classmethod
    def from_submission(cls, submission: Submission, sync: bool, now: float) -> Self:
        """Return a new waiting job; `sync` tells whether it came by /runsync."""
        policy = submission.policy
        return cls(
            id=f"{'sync-' if sync else ''}{uuid.uuid4()}-u1",
            status=Status.IN_QUEUE,
            webhook=str(submission.webhook) if submission.webhook else None,
            low_priority=policy.lowPriority,
            execution_timeout=policy.executionTimeout / SECOND,
            keep=KEEP_RUNSYNC_SECONDS if sync else KEEP_RUN_SECONDS,
            created=now,
            expires=now + policy.ttl / SECOND,
            payload=Payload(
                body=submission.model_dump(include={"input", "s3Config"}, exclude_none=True)
            ),
        )

    @property
    def body(self) -> dict[str, Any]:
        """The `input` and `s3Config` for the worker; loaded by `next_waiting_job` only."""
        return self.payload.body

    def start(self, worker: str, now: float) -> None:
        """Assign the job to a worker."""
        self.status, self.worker, self.started = Status.IN_PROGRESS, worker, now

    def end(self, status: Status, answer: dict[str, Any], now: float) -> None:
        """Give the job its final status and answer, and make its webhook due."""
        self.status, self.answer, self.finished = status, answer, now
        self.deliveries = 0 if self.webhook else None

    def requeue(self) -> None:
        """Put the job back into the queue and clear everything that its last run left."""
        self.status, self.answer, self.chunks = Status.IN_QUEUE, {}, []
        self.worker = self.started = self.finished = self.deliveries = None
        self.retries += 1

    def envelope(self) -> dict[str, Any]:
        """Return the job as `/status` shows it; no field is null."""
        shown: dict[str, Any] = {"id": self.id, "status": self.status}
        if self.started is not None:
            shown["delayTime"] = _milliseconds(self.created, self.started)
            shown["workerId"] = self.worker
            if self.finished is not None:
                shown["executionTime"] = _milliseconds(self.started, self.finished)
        return shown | {name: value for name, value in self.answer.items() if value is not None}


class Payload(Base):
    """A job's megabytes, in a table of their own: SQLite writes a whole row at every change."""

    __tablename__ = "payloads"

    job: Mapped[int] = mapped_column(ForeignKey("jobs.sequence"), primary_key=True)
    body: Mapped[dict[str, Any]]


IS_WAITING, IS_RUNNING = Job.status == Status.IN_QUEUE, Job.status == Status.IN_PROGRESS


def find_job(session: Session, job_id: str) -> Job | None:
    """Return a job, or `None` if it is unknown or was deleted."""
    return session.scalar(select(Job).where(Job.id == job_id))


def find_running_job(session: Session, job_id: str, worker: str) -> Job | None:
    """Return a job if this worker runs it."""
    return session.scalar(select(Job).where(Job.id == job_id, Job.worker == worker, IS_RUNNING))


def find_jobs(session: Session, *conditions: ColumnElement[bool]) -> Sequence[Job]:
    """Return all jobs that meet the conditions."""
    return session.scalars(select(Job).where(*conditions)).all()


def next_waiting_job(session: Session) -> Job | None:
    """Return the next job to run, by priority and then by arrival, with its body."""
    turns = select(Job).where(IS_WAITING).order_by(Job.low_priority, Job.sequence)
    return session.scalar(turns.limit(1).options(joinedload(Job.payload)))


def most_deaths(session: Session, worker: str) -> int | None:
    """Return the most `deaths` of any job that a worker runs; `None` if it runs none."""
    return session.scalar(select(func.max(Job.deaths)).where(IS_RUNNING, Job.worker == worker))


def count_waiting(session: Session) -> int:
    """Return how many jobs wait."""
    return session.scalar(select(func.count()).where(IS_WAITING)) or 0


def count_by_status(session: Session) -> dict[str, int]:
    """Return the number of jobs by status, and under `retried` that of all retries."""
    rows = session.execute(select(Job.status, func.count()).group_by(Job.status))
    retried = session.scalar(select(func.sum(Job.retries)))
    return {"retried": retried or 0} | {str(status): count for status, count in rows}


def _milliseconds(start: float, end: float) -> int:
    return max(0, round((end - start) * SECOND))
