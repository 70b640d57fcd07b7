"""Waiting for a job to change: clients and workers are answered at once."""

import asyncio
from collections.abc import Callable
from functools import partial

import pytest

from kontext.local.jobs import DAY, Policy, Status, Submission
from kontext.local.queue import Queue
from kontext.local.store import Store
from tests.local.stored_jobs import A_DAY, EDIT, TEN_MINUTES, Clock


@pytest.mark.parametrize(
    ("seconds", "status"), [(TEN_MINUTES, Status.TIMED_OUT), (A_DAY, None)], ids=["late", "old"]
)
async def test_a_timeout_is_reported_at_once(
    store: Store, clock: Clock, seconds: float, status: Status | None
) -> None:
    """The waiting client is answered, and the worker is told to stop the job."""
    queue = Queue(store)
    slow = Policy() if status else Policy(executionTimeout=7 * DAY)
    job_id = store.add(Submission(input={}, policy=slow), sync=False).id
    store.take("a")
    waiting = asyncio.create_task(queue.wait_until_finished(job_id, 60))
    stopping = asyncio.create_task(queue.wait_for_jobs_to_stop("a", 60))
    await asyncio.sleep(0)
    clock.now += seconds + 1

    housekeeping = asyncio.create_task(queue.run_housekeeping())
    async with asyncio.timeout(20):
        job, to_stop = await waiting, await stopping
    housekeeping.cancel()

    assert (job and job.status) == status
    assert to_stop == [job_id]


@pytest.mark.parametrize("end", [Queue.close_worker, partial(Queue.release, died=True)])
async def test_the_polls_of_a_closed_or_dead_worker_end_empty(
    store: Store, end: Callable[[Queue, str], None]
) -> None:
    """Neither open polls nor later ones take a job; another worker gets it."""
    queue = Queue(store)
    polls = [
        asyncio.create_task(queue.take("a", 60)),
        asyncio.create_task(queue.wait_for_jobs_to_stop("a", 60)),
    ]
    await asyncio.sleep(0)
    end(queue, "a")
    job = queue.submit(EDIT, sync=False)

    async with asyncio.timeout(20):
        assert [await poll for poll in polls] == [None, []]
        assert await queue.take("a", 60) is None
        taken = await queue.take("b", 60)
    assert taken is not None
    assert taken.id == job.id
