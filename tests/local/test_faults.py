"""No job is lost or run twice to its end, whichever process is killed, and when."""

import asyncio
import os
import random
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from kontext.local.dead_worker_retries import GIVEN_UP, MAX_DEATHS
from tests.local.served import EDIT, LONG_EDIT, Served, commanded, free_port, serving

BRIEF_EDIT = {**LONG_EDIT, "num_inference_steps": 3}
JOBS, KILLS, WORKERS = 100, 16, 5
HELD = 2
"""Jobs that a worker has at most: one on the GPU thread, and one before or after it."""


async def kill_workers(served: Served, chance: random.Random) -> None:
    """Kill workers at random times; every second one is a worker with a job, if there is any."""
    for number in range(KILLS):
        await asyncio.sleep(chance.random())
        busy = served.server.queue.store.running_workers() if number % 2 else set()
        workers = served.server.workers
        victim = chance.choice(
            [supervisor for supervisor in workers if supervisor.id in busy] or workers
        )
        with suppress(ProcessLookupError):
            os.killpg(victim.pid or 0, signal.SIGKILL)


@pytest.mark.hostile("kills")
async def test_workers_killed_at_random_lose_and_double_no_job(tmp_path: Path) -> None:
    """Every job ends exactly once, and only jobs of killed workers are run again.

    A job fails, and its error says so, when three workers were killed while they ran it.
    """
    async with serving(tmp_path, workers=WORKERS) as served:
        job_ids = [await served.client.send(BRIEF_EDIT) for _ in range(JOBS)]
        await kill_workers(served, random.Random(7))
        jobs = [await served.client.finished(job_id) for job_id in job_ids]
        counted = (await served.client.health())["jobs"]

    done = {job["id"] for job in jobs if job["status"] == "COMPLETED"}
    given_up = {job["id"] for job in jobs if job.get("error") == GIVEN_UP}
    assert done | given_up == set(job_ids)
    assert len(given_up) <= KILLS * HELD // MAX_DEATHS
    assert counted["completed"] == len(done)
    assert counted["failed"] == len(given_up)
    assert served.ledger.stored.keys() >= done
    assert served.ledger.stored.total() <= JOBS + KILLS * HELD


@pytest.mark.hostile("kills")
async def test_a_killed_server_loses_and_doubles_no_job(tmp_path: Path) -> None:
    """The next server runs the waiting and the running jobs, and still has the results."""
    port = free_port()
    async with commanded(tmp_path, port, WORKERS) as first:
        job_ids = [await first.client.send(BRIEF_EDIT) for _ in range(JOBS // 2)]
        before = [await first.client.finished(job_id) for job_id in job_ids[: JOBS // 6]]
        first.process.kill()
        await first.leaves_nothing()
    async with commanded(tmp_path, port, WORKERS) as second:
        jobs = [await second.client.finished(job_id) for job_id in job_ids]

    assert {job["status"] for job in jobs} == {"COMPLETED"}
    assert [job["id"] for job in jobs] == job_ids
    assert jobs[: len(before)] == before
    assert second.ledger.stored.keys() == set(job_ids)
    assert second.ledger.stored.total() <= len(jobs) + WORKERS * HELD


async def test_a_cancelled_job_frees_its_worker(tmp_path: Path) -> None:
    """The job stops between two steps and stores nothing; the worker takes the next job."""
    endless = {**LONG_EDIT, "num_inference_steps": 50}
    async with serving(tmp_path) as served:
        cancelled = await served.client.send(endless)
        worker = (await served.client.running(cancelled))["workerId"]
        await served.client.cancel(cancelled)
        job = await served.client.finished(await served.client.send(EDIT))

        assert (await served.client.status(cancelled))["status"] == "CANCELLED"
    assert (job["status"], job["workerId"]) == ("COMPLETED", worker)
    assert served.ledger.stored == {job["id"]: 1}
