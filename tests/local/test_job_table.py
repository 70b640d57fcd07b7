"""A job's id, the times that it shows, and its state after each change."""

import pytest

from kontext.local.jobs import Status
from kontext.local.store import Store
from tests.local.stored_jobs import ALL, EDIT, Clock, Make, known, queued


@pytest.mark.parametrize(("make", "status"), list(zip(ALL, Status, strict=True)))
def test_a_job_reaches_each_state(store: Store, make: Make, status: Status) -> None:
    """Each maker of a job brings it into the one of Runpod's six states that it is named for."""
    assert known(store, make(store)).status == status


@pytest.mark.parametrize("sync", [True, False], ids=["runsync", "run"])
def test_an_id_tells_by_which_path_its_job_came(store: Store, sync: bool) -> None:
    """Ids have Runpod's form, with `sync-` for /runsync, and no two are equal."""
    ids = [store.add(EDIT, sync).id for _ in range(2)]

    assert len(set(ids)) == 2
    assert all(job_id.startswith("sync-") == sync and job_id.endswith("-u1") for job_id in ids)


def test_times_are_whole_milliseconds(store: Store, clock: Clock) -> None:
    """`delayTime` lasts until a worker took the job, `executionTime` from then until its end."""
    job_id = queued(store)
    assert known(store, job_id).envelope() == {"id": job_id, "status": "IN_QUEUE"}
    clock.now += 0.0184
    store.take("a")
    started = {"id": job_id, "status": "IN_PROGRESS", "delayTime": 18, "workerId": "a"}
    assert known(store, job_id).envelope() == started
    clock.now += 4.5212
    store.finish(job_id, "a", {"output": 1})

    ended = {"status": "COMPLETED", "executionTime": 4521, "output": 1}
    assert known(store, job_id).envelope() == started | ended


def test_a_clock_set_back_makes_no_negative_times(store: Store, clock: Clock) -> None:
    """When the machine corrects its clock, a negative time is shown as 0."""
    job_id = queued(store)
    clock.now -= 100
    store.take("a")

    assert known(store, job_id).envelope()["delayTime"] == 0
