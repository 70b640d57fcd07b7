"""Webhooks: their body, the number of tries, and what a restart of the server does."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from kontext.local.server import Server
from kontext.local.webhooks import MAX_TRIES
from tests.local.conftest import Serve, client_of
from tests.local.receiver import Receiver, complete_job, submit
from tests.local.served import until
from tests.local.worker import Worker

pytestmark = pytest.mark.asyncio(loop_scope="module")

PAUSE = 0.05
"""Seconds between two tries of the server in these tests."""


@pytest_asyncio.fixture(loop_scope="module")
async def receiver() -> AsyncIterator[Receiver]:
    """The receiver of the webhooks."""
    async with Receiver().listen() as receiver:
        yield receiver


async def settled(server: Server) -> None:
    """Wait until no webhook is due, and then for the pauses of two more tries."""
    await until(lambda: not server.queue.store.due_webhooks())
    await asyncio.sleep(2 * PAUSE)


@pytest.mark.parametrize("answer", [{"output": {"cost": 0.03}}, {"error": "no"}], ids=str)
async def test_a_webhook_gets_the_envelope_of_status(
    client: httpx.AsyncClient, worker: Worker, receiver: Receiver, answer: dict[str, Any]
) -> None:
    """Results and failures are announced alike."""
    job_id = await submit(client, receiver.url)
    await worker.take()
    assert receiver.bodies == []
    await worker.finish(job_id, **answer)

    assert await receiver.calls(1) == [(await client.get(f"/status/{job_id}")).json()]
    assert receiver.bodies[0].items() >= answer.items()


@pytest.mark.parametrize("path", ["/cancel/{}", "/purge-queue"])
async def test_a_cancelled_job_is_announced(
    client: httpx.AsyncClient, receiver: Receiver, path: str
) -> None:
    """A purged job is announced too."""
    job_id = await submit(client, receiver.url)
    await client.post(path.format(job_id))

    assert await receiver.calls(1) == [{"id": job_id, "status": "CANCELLED"}]


@pytest.mark.parametrize(
    ("codes", "tries"),
    [([], 1), ([500], 2), ([404, 302], 3), ([201, 503, 500], MAX_TRIES), ([500] * 5, MAX_TRIES)],
    ids=str,
)
async def test_a_webhook_is_tried_three_times_at_most(
    server: Server,
    client: httpx.AsyncClient,
    worker: Worker,
    receiver: Receiver,
    codes: list[int],
    tries: int,
) -> None:
    """Any answer but 200 leads to another try with the same body, up to the third."""
    receiver.codes = codes
    job_id = await complete_job(client, worker, receiver.url)

    await settled(server)

    assert receiver.bodies == [(await client.get(f"/status/{job_id}")).json()] * tries


async def test_a_webhook_that_is_never_answered_is_given_up(
    server: Server, client: httpx.AsyncClient, worker: Worker
) -> None:
    """The job keeps its result."""
    job_id = await complete_job(client, worker, "http://127.0.0.1:1/done")

    await settled(server)

    assert (await client.get(f"/status/{job_id}")).json()["status"] == "COMPLETED"


async def raw_receiver(answer: bytes, endless: bool = False) -> asyncio.Server:
    """Answer every request with `answer`; if `endless`, followed by an endless body."""

    async def answered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while not (await reader.read(2**16)).endswith(b"}"):
                pass
            writer.write(b"HTTP/1.1 " + answer)
            while endless:
                writer.write(b"x" * 2**20)
                await writer.drain()
        writer.close()

    return await asyncio.start_server(answered, "127.0.0.1", 0)


@pytest.mark.parametrize(
    "answer",
    [
        b"302 Found\r\nLocation: http://xn--/\r\nContent-Length: 0\r\n\r\n",
        b"302 Found\r\nLocation: http://[\r\nContent-Length: 0\r\n\r\n",
        b"200 OK\r\nContent-Length: -1\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"",
    ],
)
async def test_no_answer_ends_the_server(
    server: Server, client: httpx.AsyncClient, worker: Worker, answer: bytes
) -> None:
    """Whatever error it causes in our client, the try has failed and the server goes on."""
    async with await raw_receiver(answer) as receiver:
        host, port = receiver.sockets[0].getsockname()
        await complete_job(client, worker, f"http://{host}:{port}/done")
        await settled(server)

    assert (await client.get("/health")).status_code == 200


async def test_the_body_of_an_answer_is_not_read(
    server: Server, client: httpx.AsyncClient, worker: Worker
) -> None:
    """An endless body neither fills the memory nor delays the delivery."""
    async with await raw_receiver(b"200 OK\r\n\r\n", endless=True) as receiver:
        host, port = receiver.sockets[0].getsockname()
        await complete_job(client, worker, f"http://{host}:{port}/done")
        await settled(server)


@pytest.mark.parametrize(
    "webhook", ["http://169.254.169.254/done", "http://10.0.0.1/done", "http://[fe80::1]/done"]
)
async def test_a_webhook_in_a_private_network_is_not_called(
    server: Server,
    client: httpx.AsyncClient,
    worker: Worker,
    webhook: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The log names the job whose webhook was refused; the job keeps its result."""
    job_id = await complete_job(client, worker, webhook)
    await settled(server)

    assert f"the webhook of {job_id} was not called" in caplog.text
    assert (await client.get(f"/status/{job_id}")).json()["status"] == "COMPLETED"


async def test_a_try_counts_before_it_is_made(
    server: Server, client: httpx.AsyncClient, worker: Worker, receiver: Receiver
) -> None:
    """So a server that crashes at the answer does not call the webhook for ever."""
    receiver.open.clear()
    await complete_job(client, worker, receiver.url)
    await receiver.calls(1)

    assert [job.deliveries for job in server.queue.store.due_webhooks()] == [1]
    receiver.open.set()


async def test_a_slow_webhook_delays_no_other(
    client: httpx.AsyncClient, worker: Worker, receiver: Receiver
) -> None:
    """Each is called at once, before the one before is answered."""
    receiver.open.clear()
    jobs = [await complete_job(client, worker, receiver.url) for _ in range(3)]

    assert [body["id"] for body in await receiver.calls(3)] == jobs
    receiver.open.set()


async def test_a_retried_job_is_announced_again(
    client: httpx.AsyncClient, worker: Worker, receiver: Receiver
) -> None:
    """The second end is announced even if the first announcement is not answered yet."""
    receiver.open.clear()
    job_id = await submit(client, receiver.url)
    await worker.take()
    await worker.finish(job_id, error="no")
    await receiver.calls(1)
    await client.post(f"/retry/{job_id}")
    await worker.take()
    await worker.finish(job_id, output={})
    receiver.open.set()

    assert [body["status"] for body in await receiver.calls(2)] == ["FAILED", "COMPLETED"]


async def test_a_restart_continues_the_tries(serve: Serve, receiver: Receiver) -> None:
    """One try before the restart and two after it make three; no delivered one is repeated."""
    receiver.codes = [200] + [500] * MAX_TRIES
    async with serve(webhook_pause_seconds=3600) as server, client_of(server) as client:
        worker = Worker(server)
        await complete_job(client, worker, receiver.url)
        await receiver.calls(1)
        await settled(server)
        refused = await complete_job(client, worker, receiver.url)
        await receiver.calls(2)
        await until(lambda: [j.deliveries for j in server.queue.store.due_webhooks()] == [1])
    async with serve(webhook_pause_seconds=PAUSE) as server:
        await settled(server)

    assert [body["id"] for body in receiver.bodies[1:]] == [refused] * MAX_TRIES
