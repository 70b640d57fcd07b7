"""Half-open connections, interrupted uploads, and a queue that is full."""

import asyncio
import contextlib
import logging
from urllib.parse import urlsplit

import pytest

from kontext.local.server import Server
from tests.local.conftest import Serve, client_of
from tests.local.worker import Worker

pytestmark = pytest.mark.asyncio(loop_scope="module")

HEAD = b"POST /v2/any/run HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
WHOLE = HEAD + b'Content-Length: 13\r\n\r\n{"input": {}}'
READ_SECONDS = 0.5

HALVES = {
    "nothing": b"",
    "head": HEAD,
    "body": HEAD + b"Content-Length: 13\r\n\r\n{",
    "chunked-body": HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
    "body-that-is-not-read": b"GET /docs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{",
    "second-head": WHOLE + HEAD,
}


async def connect(
    server: Server, sent: bytes = b""
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a connection and send some bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(server.url).port)
    writer.write(sent)
    await writer.drain()
    return reader, writer


@pytest.mark.parametrize("sent", HALVES.values(), ids=HALVES)
async def test_a_half_sent_request_is_closed(serve: Serve, sent: bytes) -> None:
    """A connection is closed when its request does not arrive in time."""
    async with serve(read_timeout_seconds=READ_SECONDS) as server:
        reader, writer = await connect(server, sent)
        async with asyncio.timeout(20):
            with contextlib.suppress(ConnectionResetError):
                await reader.read()
        writer.close()


async def test_a_slowly_sent_request_is_closed(serve: Serve) -> None:
    """Further bytes do not extend the time."""
    async with serve(read_timeout_seconds=READ_SECONDS) as server:
        reader, writer = await connect(server, HEAD)
        async with asyncio.timeout(20):
            while not reader.at_eof():
                writer.write(b"X-Slow: 1\r\n")
                await asyncio.sleep(0.1)
                if writer.is_closing():
                    break


async def test_an_answer_may_take_longer(serve: Serve) -> None:
    """The timeout is for the request only."""
    async with serve(read_timeout_seconds=READ_SECONDS) as server, client_of(server) as client:
        answer = await client.post("/runsync", params={"wait": 1500}, json={"input": {}})

    assert answer.json()["status"] == "IN_QUEUE"


async def test_half_open_connections_keep_no_client_out(serve: Serve) -> None:
    """The oldest half-open one is closed for a new one; one that awaits its answer is kept."""
    async with serve(max_connections=20) as server, client_of(server) as client:
        waiting = asyncio.create_task(
            client.post("/runsync", params={"wait": 30_000}, json={"input": {}})
        )
        worker = Worker(server)
        job = await worker.take()
        half_open = await asyncio.gather(*(connect(server, HEAD) for _ in range(300)))
        async with asyncio.timeout(20):
            await client.get("/health")
            await worker.finish(job["id"], output=1)
            answer = await waiting
        open_yet = [
            reader for reader, _ in half_open if not (reader.at_eof() or reader.exception())
        ]
        for _, writer in half_open:
            writer.close()

    assert len(open_yet) < 20
    assert answer.json()["status"] == "COMPLETED"


@pytest.mark.parametrize("path", [b"run", b"runsync", b"job-done/worker-1/x"])
async def test_an_interrupted_upload_is_one_line_of_the_debug_log(
    serve: Serve, path: bytes, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """It is no error of the server, so there is no traceback."""
    caplog.set_level(logging.DEBUG, "kontext")
    async with serve() as server:
        head = HEAD.replace(b"/run ", b"/" + path + b" ") + b"Authorization: "
        key = server.control_plane["RUNPOD_AI_API_KEY"].encode()
        _, writer = await connect(server, head + key + b"\r\nContent-Length: 1000\r\n\r\n{")
        await asyncio.sleep(0.2)
        writer.close()
        async with asyncio.timeout(20):
            while "broken off" not in caplog.text:  # noqa: ASYNC110 - there is no event
                await asyncio.sleep(0.02)

    lines = [record for record in caplog.records if record.name in {"kontext", "uvicorn.error"}]
    assert [record.levelname for record in lines] == ["DEBUG"]
    assert lines[0].message == f"POST /v2/any/{path.decode()} was broken off by its client"
    assert "Traceback" not in capfd.readouterr().err


async def test_a_full_queue_refuses_jobs(serve: Serve) -> None:
    """The answer is 429, as for any limit of Runpod; a job that a worker takes makes room."""
    async with serve(max_waiting_jobs=2) as server, client_of(server) as client:
        codes = [(await client.post("/run", json={"input": {}})).status_code for _ in range(2)]
        refused = [
            await client.post("/run", json={"input": {}}),
            await client.post("/runsync", json={"input": {}}),
        ]
        await Worker(server).take()
        after = await client.post("/run", json={"input": {}})

    assert codes == [200, 200]
    for answer in refused:
        assert answer.status_code == 429
        assert answer.json() == {"error": "the queue is full: 2 jobs wait; try again later"}
    assert after.status_code == 200
