"""Timeouts of running jobs, and when a job is deleted."""

import contextlib
import sqlite3
from pathlib import Path

import pytest

from kontext.local.expiry import TIMEOUT_ERROR, delete_expired, set_ttl, time_out_overdue
from kontext.local.jobs import SECOND, Policy, Status, Submission
from kontext.local.store import Store
from tests.local.stored_jobs import (
    A_DAY,
    ALL,
    EDIT,
    HALF_AN_HOUR,
    TEN_MINUTES,
    Clock,
    Make,
    failed_with_webhook,
    known,
    queued,
    running,
)


@pytest.mark.parametrize(
    ("policy", "seconds"),
    [(Policy(), TEN_MINUTES), (Policy(executionTimeout=5 * SECOND), 5.0)],
    ids=["default", "5 s"],
)
def test_a_job_may_run_as_long_as_its_policy_says(
    store: Store, clock: Clock, policy: Policy, seconds: float
) -> None:
    """Waiting does not count. A moment later the job is timed out and returned with its worker."""
    job_id = store.add(Submission(input={}, policy=policy), sync=False).id
    clock.now += 1000
    store.take("a")
    clock.now += seconds
    assert time_out_overdue(store) == []
    clock.now += 0.1

    assert [(job.id, job.worker) for job in time_out_overdue(store)] == [(job_id, "a")]
    job = known(store, job_id)
    assert (job.status, job.answer) == (Status.TIMED_OUT, {"error": TIMEOUT_ERROR})


@pytest.mark.parametrize(
    ("sync", "seconds"), [(False, HALF_AN_HOUR), (True, 60.0)], ids=["run", "runsync"]
)
def test_results_are_kept_as_long_as_runpod_keeps_them(
    store: Store, clock: Clock, sync: bool, seconds: float
) -> None:
    """A result is kept for its time, counted from the job's end, and is then deleted."""
    job_id = store.add(EDIT, sync).id
    clock.now += 3600
    store.take("a")
    store.finish(job_id, "a", {"output": 1})
    clock.now += seconds
    assert delete_expired(store) == []
    assert known(store, job_id).answer == {"output": 1}
    clock.now += 0.1

    assert delete_expired(store) == []
    assert store.get(job_id) is None


@pytest.mark.parametrize("make", [queued, running])
def test_a_job_lives_no_longer_than_its_ttl(store: Store, clock: Clock, make: Make) -> None:
    """After a day it is deleted in any state; if it had not ended, it is returned."""
    job_id = make(store)
    clock.now += A_DAY
    assert delete_expired(store) == []
    clock.now += 0.1

    assert [job.id for job in delete_expired(store)] == [job_id]
    assert store.get(job_id) is None
    assert not store.finish(job_id, "a", {})


def test_a_deleted_job_leaves_nothing_in_the_file(
    store: Store, clock: Clock, queue_file: Path
) -> None:
    """Input, keys and result are gone from both tables."""
    for make in ALL:
        make(store)
    clock.now += A_DAY + 1
    delete_expired(store)
    store.close()

    with contextlib.closing(sqlite3.connect(queue_file)) as file:
        tables = file.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
        left = {name: file.execute(f"SELECT * FROM {name}").fetchall() for (name,) in tables}
    assert left == {"jobs": [], "payloads": []}


def test_a_clients_ttl_counts_from_now(store: Store, clock: Clock) -> None:
    """The `?ttl=` of `/status` replaces the one that the job was submitted with."""
    job_id = queued(store)
    clock.now += 100
    set_ttl(store, job_id, 6)
    clock.now += 6
    assert delete_expired(store) == []
    clock.now += 0.1

    assert [job.id for job in delete_expired(store)] == [job_id]


def test_a_result_waits_for_its_webhook(store: Store, clock: Clock) -> None:
    """A result is not deleted while its webhook is still to be called."""
    job = failed_with_webhook(store)
    clock.now += A_DAY
    delete_expired(store)
    assert store.get(job.id)

    store.record_delivery(job, None)
    delete_expired(store)
    assert store.get(job.id) is None
