"""The supervisor of a worker: however the worker's process ends, the next one works.

Most tests share one supervisor, so each also proves that the one before left it intact.
"""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from kontext.errors import OutOfMemory, boot_failure_sentence
from kontext.local.dead_worker_retries import GIVEN_UP, MAX_DEATHS
from kontext.local.queue import Queue
from kontext.local.store import Store
from kontext.local.worker_supervisor import WorkerSupervisor
from tests.local.served import EDIT, LONG_EDIT, Served, group, serving, until

HANDLER = Path(__file__).parents[2] / "handler.py"

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    """A server with one worker, which is soon regarded as hung."""
    async with serving(tmp_path_factory.mktemp("served"), hung_timeout_seconds=4) as served:
        yield served


@pytest.mark.hostile("kills")
async def test_a_killed_workers_job_is_handed_to_the_next(served: Served) -> None:
    """The job is run again from its first step, and its client gets one result."""
    job_id = await served.client.send(LONG_EDIT)
    first = await served.client.running(job_id)
    os.killpg(served.server.workers[0].pid or 0, signal.SIGKILL)
    job = await served.client.finished(job_id)

    assert job["status"] == "COMPLETED"
    assert job["workerId"] != first["workerId"]
    assert served.ledger.stored[job_id] == 1


@pytest.mark.hostile("kills")
async def test_a_worker_killed_while_it_waits_takes_no_job_along(served: Served) -> None:
    """Its open poll does not get the next job."""
    supervisor = served.server.workers[0]
    await until(lambda: supervisor.is_ready)
    os.killpg(supervisor.pid or 0, signal.SIGKILL)
    await until(lambda: not supervisor.is_ready)
    job = await served.client.finished(await served.client.send(EDIT))

    assert job["status"] == "COMPLETED"
    assert job["workerId"] == supervisor.id


@pytest.mark.hostile("kills")
async def test_a_job_that_kills_its_workers_is_given_up(served: Served) -> None:
    """It fails after three workers; the next job succeeds, and no heartbeat is left."""
    await until(lambda: served.server.workers[0].is_ready)
    before, first = served.ledger.boots, served.server.workers[0].pid
    deadly = await served.client.send({**EDIT, "prompt": "die"})
    job = await served.client.finished(deadly)

    assert (job["status"], job["error"]) == ("FAILED", GIVEN_UP)
    harmless = await served.client.send(EDIT)
    assert (await served.client.finished(harmless))["status"] == "COMPLETED"
    assert served.ledger.boots - before == MAX_DEATHS
    await until(lambda: not group(first))


@pytest.mark.hostile("kills")
async def test_a_hung_worker_is_killed_and_replaced(served: Served) -> None:
    """A stopped process group sends no ping; no process of it is left."""
    job_id = await served.client.send(LONG_EDIT)
    first = await served.client.running(job_id)
    hung = served.server.workers[0].pid
    os.killpg(hung or 0, signal.SIGSTOP)
    job = await served.client.finished(job_id)

    assert job["status"] == "COMPLETED"
    assert job["workerId"] != first["workerId"]
    await until(lambda: not group(hung))


async def test_no_worker_is_killed_because_the_machine_slept(served: Served) -> None:
    """Silence counts only while the server runs: a closed laptop suspends both."""
    supervisor = served.server.workers[0]
    await until(lambda: supervisor.is_ready)
    before = supervisor.id
    time.sleep(5)  # noqa: ASYNC251 - the server is in this loop, and hears nothing
    await asyncio.sleep(1.5)

    assert supervisor.id == before


async def test_a_worker_that_asks_for_it_is_replaced_after_its_result(
    served: Served,
) -> None:
    """The result with `stopPod` is recorded; the next job gets a new worker."""
    large = await served.client.send({**EDIT, "prompt": "memory not freed"})
    failed = await served.client.finished(large)
    small = await served.client.send(EDIT)
    done = await served.client.finished(small)

    assert (failed["status"], failed["error"]) == ("FAILED", OutOfMemory.example)
    assert done["status"] == "COMPLETED"
    assert done["workerId"] != failed["workerId"]


async def test_a_worker_that_cannot_boot_says_why_and_is_tried_again(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """It does not count as ready; when the cause is removed, the waiting job runs."""
    unfit = tmp_path / "unfit"
    unfit.touch()
    async with serving(tmp_path) as served:
        job_id = await served.client.send(EDIT)
        await until(lambda: "it did not boot" in caplog.text)
        assert (await served.client.health())["workers"] == {"idle": 0, "running": 0}
        unfit.unlink()
        job = await served.client.finished(job_id)

    assert (
        "Fitness check failed: is_fit | BootError: there are no weights" in capfd.readouterr().out
    )
    assert job["status"] == "COMPLETED"
    assert served.ledger.boots == 2


async def test_a_client_is_told_that_the_real_worker_cannot_boot(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The error names the failed check; a worker that takes a job to say so is not booted."""
    async with serving(tmp_path, handler=HANDLER) as served:
        job = await served.client.finished(await served.client.send(EDIT))
        await until(lambda: "it did not boot" in caplog.text)
        workers = (await served.client.health())["workers"]

    assert (job["status"], job["error"]) == ("FAILED", boot_failure_sentence("bucket"))
    assert workers == {"idle": 0, "running": 0}


async def test_a_job_that_outlives_the_graceful_period_is_requeued(tmp_path: Path) -> None:
    """The server ends before the job does, and the next server runs the job."""
    async with serving(tmp_path, grace_seconds=1) as served:
        job_id = await served.client.send({**EDIT, "prompt": "wait", "seed": 1})
        await served.client.running(job_id)
    stopped = Store(tmp_path / "queue.sqlite").get(job_id)
    (tmp_path / "1").touch()
    async with serving(tmp_path) as served:
        job = await served.client.finished(job_id)

    assert stopped is not None
    assert stopped.deaths == 0  # its worker was shut down
    assert job["status"] == "COMPLETED"
    assert served.ledger.stored[job_id] == 1


async def test_no_worker_is_started_after_stop(tmp_path: Path) -> None:
    """A stop during the pause after a failed boot counts too."""
    handler = tmp_path / "handler.py"
    lives = tmp_path / "lives"
    handler.write_text(f"open({str(lives)!r}, 'a').write('x'); raise SystemExit(1)")
    supervisor = WorkerSupervisor(handler, {}, Queue(Store(tmp_path / "queue.sqlite")))
    running = asyncio.create_task(supervisor.run())
    await until(lambda: supervisor.pid is not None)
    supervisor.stop()
    async with asyncio.timeout(30):
        await running

    assert not lives.exists() or lives.read_text() == "x"
