"""One slot for a worker: whatever becomes of the process in it, the next one works.

Most tests share one slot, so each also proves that the one before left it in order.
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
from kontext.local.queue import Queue
from kontext.local.store import GIVEN_UP, MOST_DEATHS, Store
from kontext.local.worker_process import WorkerProcess
from tests.local.served import EDIT, LONG_EDIT, Served, group, serving, until

HANDLER = Path(__file__).parents[2] / "handler.py"

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    """A server with one worker, which is soon missed."""
    async with serving(tmp_path_factory.mktemp("served"), hung_seconds=4) as served:
        yield served


@pytest.mark.hostile("kills")
async def test_a_killed_workers_job_is_handed_to_the_next(served: Served) -> None:
    """The job runs again from its start, and its client sees one result."""
    job_id = await served.client.send(LONG_EDIT)
    first = await served.client.running(job_id)
    os.killpg(served.server.workers[0].pid or 0, signal.SIGKILL)
    job = await served.client.finished(job_id)

    assert job["status"] == "COMPLETED"
    assert job["workerId"] != first["workerId"]
    assert served.ledger.stored[job_id] == 1


@pytest.mark.hostile("kills")
async def test_a_worker_killed_while_it_waits_takes_no_job_along(served: Served) -> None:
    """Its poll is still held when the next job comes, and must not get it."""
    slot = served.server.workers[0]
    await until(lambda: slot.ready)
    os.killpg(slot.pid or 0, signal.SIGKILL)
    await until(lambda: not slot.ready)
    job = await served.client.finished(await served.client.send(EDIT))

    assert job["status"] == "COMPLETED"
    assert job["workerId"] == slot.id


@pytest.mark.hostile("kills")
async def test_a_job_that_kills_its_workers_is_given_up(served: Served) -> None:
    """After three, so that it does not hold up the others for ever; no heartbeat stays behind."""
    await until(lambda: served.server.workers[0].ready)
    before, first = served.ledger.boots, served.server.workers[0].pid
    deadly = await served.client.send({**EDIT, "prompt": "die"})
    job = await served.client.finished(deadly)

    assert (job["status"], job["error"]) == ("FAILED", GIVEN_UP)
    harmless = await served.client.send(EDIT)
    assert (await served.client.finished(harmless))["status"] == "COMPLETED"
    assert served.ledger.boots - before == MOST_DEATHS
    await until(lambda: not group(first))


@pytest.mark.hostile("kills")
async def test_a_hung_worker_is_killed_and_replaced(served: Served) -> None:
    """Stopped with all that it started, it does not even ping; nothing of it remains."""
    job_id = await served.client.send(LONG_EDIT)
    first = await served.client.running(job_id)
    hung = served.server.workers[0].pid
    os.killpg(hung or 0, signal.SIGSTOP)
    job = await served.client.finished(job_id)

    assert job["status"] == "COMPLETED"
    assert job["workerId"] != first["workerId"]
    await until(lambda: not group(hung))


async def test_no_worker_is_killed_for_what_the_server_slept_through(served: Served) -> None:
    """Silence counts only while somebody listens: a laptop's lid may close on both."""
    slot = served.server.workers[0]
    await until(lambda: slot.ready)
    before = slot.id
    time.sleep(5)  # noqa: ASYNC251 - the server is in this loop, and hears nothing
    await asyncio.sleep(1.5)

    assert slot.id == before


async def test_a_worker_that_asks_to_be_replaced_is_once_its_result_is_recorded(
    served: Served,
) -> None:
    """`stopPod` comes with the result; the next job meets a new worker."""
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
    """It is not taken for one that serves; once its cause is mended, what has waited runs."""
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


async def test_a_client_hears_from_the_real_worker_that_it_cannot_boot(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Which check failed; and a worker that took a job for that alone does not count as booted."""
    async with serving(tmp_path, handler=HANDLER) as served:
        job = await served.client.finished(await served.client.send(EDIT))
        await until(lambda: "it did not boot" in caplog.text)
        workers = (await served.client.health())["workers"]

    assert (job["status"], job["error"]) == ("FAILED", boot_failure_sentence("bucket"))
    assert workers == {"idle": 0, "running": 0}


async def test_a_job_that_outlives_the_grace_period_is_queued_again(tmp_path: Path) -> None:
    """The server ends without it, and the next one runs it."""
    async with serving(tmp_path, grace_seconds=1) as served:
        job_id = await served.client.send({**EDIT, "prompt": "wait", "seed": 1})
        await served.client.running(job_id)
    stopped = Store(tmp_path / "queue.sqlite").get(job_id)
    (tmp_path / "1").touch()
    async with serving(tmp_path) as served:
        job = await served.client.finished(job_id)

    assert stopped is not None
    assert stopped.deaths == 0  # its worker was told to end
    assert job["status"] == "COMPLETED"
    assert served.ledger.stored[job_id] == 1


async def test_no_worker_is_started_after_the_end(tmp_path: Path) -> None:
    """Also not when the end comes in the pause after one that did not boot."""
    handler = tmp_path / "handler.py"
    lives = tmp_path / "lives"
    handler.write_text(f"open({str(lives)!r}, 'a').write('x'); raise SystemExit(1)")
    slot = WorkerProcess(handler, {}, Queue(Store(tmp_path / "queue.sqlite")))
    running = asyncio.create_task(slot.run())
    await until(lambda: slot.pid is not None)
    slot.end()
    async with asyncio.timeout(30):
        await running

    assert not lives.exists() or lives.read_text() == "x"
