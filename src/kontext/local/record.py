"""A job's row in the queue's database, and the only ways in which it may change its state."""

import uuid
from typing import Any, Self

from sqlalchemy import JSON, ForeignKey, Index
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from kontext.local.jobs import SECOND, Status, Submission

KEEP_RUN, KEEP_RUNSYNC = 30 * 60.0, 60.0
"""Seconds that results of /run and /runsync are kept, as Runpod does."""


class Base(DeclarativeBase):
    """SQLAlchemy's registry."""

    type_annotation_map = {dict[str, Any]: JSON, list[Any]: JSON}  # noqa: RUF012


class Job(Base):
    """A row of the queue; times in seconds since the epoch.

    Attributes:
        sequence: Order of arrival.
        id: Runpod's form, `sync-<uuid>-u1` or `<uuid>-u1`.
        keep: Seconds that a result is kept.
        expires: When it is forgotten, whatever its state.
        deaths: Workers that died under it since a client queued or retried it.
        retries: How often it went back to the queue.
        deliveries: Attempts made at the webhook; `None` when none is due.
        answer: What a worker posted: `output` and `error`, as far as present.
        chunks: What a generator has streamed and no client has read yet.
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
    def queued(cls, submission: Submission, sync: bool, now: float) -> Self:
        """Return a new one."""
        policy = submission.policy
        return cls(
            id=f"{'sync-' if sync else ''}{uuid.uuid4()}-u1",
            status=Status.IN_QUEUE,
            webhook=str(submission.webhook) if submission.webhook else None,
            low_priority=policy.lowPriority,
            execution_timeout=policy.executionTimeout / SECOND,
            keep=KEEP_RUNSYNC if sync else KEEP_RUN,
            created=now,
            expires=now + policy.ttl / SECOND,
            payload=Payload(
                body=submission.model_dump(include={"input", "s3Config"}, exclude_none=True)
            ),
        )

    @property
    def body(self) -> dict[str, Any]:
        """`input` and `s3Config`, for the worker that has taken it."""
        return self.payload.body

    def start(self, worker: str, now: float) -> None:
        """Hand it to a worker."""
        self.status, self.worker, self.started = Status.IN_PROGRESS, worker, now

    def end(self, status: Status, answer: dict[str, Any], now: float) -> None:
        """End it, and make its webhook due."""
        self.status, self.answer, self.finished = status, answer, now
        self.deliveries = 0 if self.webhook else None

    def requeue(self) -> None:
        """Queue it anew, with nothing left of the attempt before."""
        self.status, self.answer, self.chunks = Status.IN_QUEUE, {}, []
        self.worker = self.started = self.finished = self.deliveries = None
        self.retries += 1

    def envelope(self) -> dict[str, Any]:
        """Return it as `/status` shows it; no field of it is null."""
        shown: dict[str, Any] = {"id": self.id, "status": self.status}
        if self.started is not None:
            shown["delayTime"] = _milliseconds(self.created, self.started)
            shown["workerId"] = self.worker
            if self.finished is not None:
                shown["executionTime"] = _milliseconds(self.started, self.finished)
        return shown | {name: value for name, value in self.answer.items() if value is not None}


class Payload(Base):
    """A job's megabytes, apart: SQLite writes the whole row at every change of a field."""

    __tablename__ = "payloads"

    job: Mapped[int] = mapped_column(ForeignKey("jobs.sequence"), primary_key=True)
    body: Mapped[dict[str, Any]]


def _milliseconds(start: float, end: float) -> int:
    return max(0, round((end - start) * SECOND))
