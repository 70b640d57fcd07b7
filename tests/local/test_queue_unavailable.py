"""A queue whose file is locked or whose disk is full: the server retries and loses no job."""

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
    """Lock the queue's file during the block, as another process does that writes to it."""
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
    """A context manager that makes the queue unavailable."""
    fault: Unusable = request.param
    return fault


async def test_a_request_is_refused_in_a_sentence(
    server: Server, client: httpx.AsyncClient, tmp_path: Path, unusable: Unusable
) -> None:
    """The answer is 503; accepted jobs can still be read, and later requests succeed."""
    accepted = [(await client.post("/run", json=JOB)).json()["id"] for _ in range(3)]
    with unusable(tmp_path):
        refused = [await client.post("/run", json=JOB), await client.post("/purge-queue")]
        read = [await client.get(f"/status/{job_id}") for job_id in accepted]
        await asyncio.sleep(1)  # the housekeeping must survive it too
    after = await client.post("/run", json=JOB)

    assert {answer.status_code for answer in refused} == {503}
    for answer in refused:
        assert answer.json()["error"].startswith("the queue is unavailable: ")
    assert {answer.json()["status"] for answer in read} == {"IN_QUEUE"}
    assert after.status_code == 200
    assert server.queue.store.counts()["IN_QUEUE"] == 4


async def test_a_result_is_held_until_it_can_be_recorded(
    server: Server, client: httpx.AsyncClient, worker: Worker, tmp_path: Path, unusable: Unusable
) -> None:
    """The worker's request is not answered before."""
    job_id = (await client.post("/run", json=JOB)).json()["id"]
    await worker.take()
    with unusable(tmp_path):
        finishing = asyncio.create_task(worker.finish(job_id, output={"cost": 0.03}))
        await asyncio.sleep(1)
        assert (await client.get(f"/status/{job_id}")).json()["status"] == "IN_PROGRESS"
    await finishing

    assert (await client.get(f"/status/{job_id}")).json()["output"] == {"cost": 0.03}


async def test_a_webhook_is_held_until_the_try_can_be_counted(
    server: Server, client: httpx.AsyncClient, worker: Worker, tmp_path: Path, unusable: Unusable
) -> None:
    """A try that failed before is repeated afterwards."""
    async with Receiver().listen() as receiver:
        receiver.codes = [500]
        job_id = await complete_job(client, worker, receiver.url)
        await receiver.calls(1)
        with unusable(tmp_path):
            await asyncio.sleep(1)
        bodies = await receiver.calls(2)

    assert [body["id"] for body in bodies] == [job_id] * 2


async def test_the_jobs_of_a_worker_that_died_meanwhile_are_requeued(
    tmp_path: Path, unusable: Unusable
) -> None:
    """The housekeeping requeues them as soon as it can."""
    store = Store(tmp_path / "queue.sqlite")
    queue = Queue(store)
    job_id = queue.submit(Submission(input={}), sync=False).id
    store.take("a")
    with unusable(tmp_path):
        queue.release("a", died=True)
    housekeeping = asyncio.create_task(queue.run_housekeeping())
    async with asyncio.timeout(20):
        taken = await queue.take("b", 10)
    housekeeping.cancel()

    assert taken is not None
    assert (taken.id, taken.deaths) == (job_id, 1)


async def test_a_real_worker_survives_a_locked_queue(tmp_path: Path) -> None:
    """When the file is unlocked, it finishes its job and takes the next one."""
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


async def test_a_full_disk_loses_no_accepted_job(serve: Serve, tmp_path: Path) -> None:
    """Jobs are kept even if the server is shut down while the disk is full."""
    async with serve() as server, client_of(server) as client:
        accepted = [(await client.post("/run", json=JOB)).json()["id"] for _ in range(20)]
        worker = Worker(server)
        done = (await worker.take())["id"]
        await worker.finish(done, output=1)
        await worker.take()
        limits = full(tmp_path)
        limits.__enter__()
    limits.__exit__(None, None, None)
    async with serve() as server:
        states = [job.status for job_id in accepted if (job := server.queue.store.get(job_id))]

    assert states == [Status.COMPLETED, *[Status.IN_QUEUE] * 19]
