"""A queue whose file is locked or whose disk is full: the server waits, and loses nothing."""

import asyncio
import contextlib
import resource
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import pytest

from kontext.local.jobs import Status, Submission
from kontext.local.queue import Queue
from kontext.local.server import Server
from kontext.local.store import Store
from tests.local.conftest import Serve, client_of
from tests.local.receiver import Receiver, complete_job
from tests.local.served import EDIT, LONG_EDIT, serving
from tests.local.worker import Worker

pytestmark = pytest.mark.asyncio(loop_scope="module")

Unusable = Callable[[Path], AbstractContextManager[None]]
JOB: dict[str, dict[str, str]] = {"input": {}}


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Let another process write to the queue during the block."""
    other = sqlite3.connect(directory / "queue.sqlite")
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.close()


@contextlib.contextmanager
def full(directory: Path) -> Iterator[None]:
    """Let no file of this process grow during the block."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(params=[locked, full], ids=["locked", "full"])
def unusable(request: pytest.FixtureRequest) -> Unusable:
    """Make the queue unusable during a block."""
    fault: Unusable = request.param
    return fault


async def test_a_request_is_refused_in_a_sentence(
    server: Server, client: httpx.AsyncClient, tmp_path: Path, unusable: Unusable
) -> None:
    """It is a 503, and what was acknowledged before can still be read; later all is well."""
    acknowledged = [(await client.post("/run", json=JOB)).json()["id"] for _ in range(3)]
    with unusable(tmp_path):
        refused = [await client.post("/run", json=JOB), await client.post("/purge-queue")]
        read = [await client.get(f"/status/{job_id}") for job_id in acknowledged]
        await asyncio.sleep(1)  # for the housekeeping
    after = await client.post("/run", json=JOB)

    assert {answer.status_code for answer in refused} == {503}
    for answer in refused:
        assert answer.json()["error"].startswith("the queue is unavailable: ")
    assert {answer.json()["status"] for answer in read} == {"IN_QUEUE"}
    assert after.status_code == 200
    assert server.queue.store.counts()["IN_QUEUE"] == 4


async def test_a_result_waits(
    server: Server, client: httpx.AsyncClient, worker: Worker, tmp_path: Path, unusable: Unusable
) -> None:
    """A worker's post is held until the result can be recorded."""
    job_id = (await client.post("/run", json=JOB)).json()["id"]
    await worker.take()
    with unusable(tmp_path):
        finishing = asyncio.create_task(worker.finish(job_id, output={"cost": 0.03}))
        await asyncio.sleep(1)
        assert (await client.get(f"/status/{job_id}")).json()["status"] == "IN_PROGRESS"
    await finishing

    assert (await client.get(f"/status/{job_id}")).json()["output"] == {"cost": 0.03}


async def test_a_webhook_waits(
    server: Server, client: httpx.AsyncClient, worker: Worker, tmp_path: Path, unusable: Unusable
) -> None:
    """It is delivered once the try can be counted."""
    async with Receiver().listen() as receiver:
        receiver.codes = [500]
        job_id = await complete_job(client, worker, receiver.url)
        await receiver.calls(1)
        with unusable(tmp_path):
            await asyncio.sleep(1)
        bodies = await receiver.calls(2)

    assert [body["id"] for body in bodies] == [job_id] * 2


async def test_the_jobs_of_a_worker_that_died_meanwhile_are_released(
    tmp_path: Path, unusable: Unusable
) -> None:
    """The housekeeping does it as soon as it can."""
    store = Store(tmp_path / "queue.sqlite")
    queue = Queue(store)
    job_id = queue.submit(Submission(input={}), sync=False).id
    store.take("a")
    with unusable(tmp_path):
        queue.release("a", died=True)
    tending = asyncio.create_task(queue.run_housekeeping())
    async with asyncio.timeout(20):
        taken = await queue.take("b", 10)
    tending.cancel()

    assert taken is not None
    assert (taken.id, taken.deaths) == (job_id, 1)


async def test_a_real_worker_lives_through_it(tmp_path: Path) -> None:
    """It finishes what it has, and takes what waits, when the file is free again."""
    async with serving(tmp_path) as served:
        first = await served.client.send(LONG_EDIT)
        await served.client.running(first)
        second = await served.client.send(EDIT)
        with locked(tmp_path):
            await asyncio.sleep(3)
        jobs = [await served.client.finished(job_id) for job_id in (first, second)]

    assert [job["status"] for job in jobs] == ["COMPLETED"] * 2
    assert len({job["workerId"] for job in jobs}) == 1
    assert served.ledger.stored == {first: 1, second: 1}


async def test_a_full_disk_loses_no_acknowledged_job(serve: Serve, tmp_path: Path) -> None:
    """Also when the server ends while the disk is full."""
    async with serve() as server, client_of(server) as client:
        acknowledged = [(await client.post("/run", json=JOB)).json()["id"] for _ in range(20)]
        worker = Worker(server)
        done = (await worker.take())["id"]
        await worker.finish(done, output=1)
        await worker.take()
        limits = full(tmp_path)
        limits.__enter__()
    limits.__exit__(None, None, None)
    async with serve() as server:
        states = [job.status for job_id in acknowledged if (job := server.queue.store.get(job_id))]

    assert states == [Status.COMPLETED, *[Status.IN_QUEUE] * 19]
