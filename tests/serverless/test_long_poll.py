"""How often a server is polled, depending on its answers: real HTTP, through the SDK's requests."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
from aiohttp import ClientSession, web
from runpod.serverless.modules import rp_job

from kontext.serverless import job_loop, long_poll
from kontext.serverless.long_poll import LongPoll


class JobServer:
    """A server of jobs that counts how often it is asked.

    Attributes:
        answer: The answer to each request.
        hold: The seconds until it answers.
    """

    def __init__(self, answer: web.Response, hold: float = 0) -> None:
        self.answer, self.hold, self.asked = answer, hold, 0

    async def __call__(self, _request: web.BaseRequest) -> web.StreamResponse:
        self.asked += 1
        await asyncio.sleep(self.hold)
        return web.Response(
            status=self.answer.status,
            body=self.answer.body,
            content_type=self.answer.content_type,
        )


@asynccontextmanager
async def polled(
    server: JobServer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[ClientSession]:
    """Serve jobs, point the SDK there, and give the block a session for its requests."""
    runner = web.ServerRunner(web.Server(server))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    monkeypatch.setattr(rp_job, "JOB_GET_URL", f"http://127.0.0.1:{port}/job-take/x?gpu=y")
    async with ClientSession() as session:
        yield session
    await runner.cleanup()


async def ask_for(seconds: float, poll: LongPoll, session: ClientSession) -> None:
    """Poll repeatedly, as the SDK's loop does."""
    try:
        async with asyncio.timeout(seconds):
            while True:
                await poll.ask(partial(job_loop._get_job, session))
    except TimeoutError:
        pass


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(web.Response(status=500), id="500"),
        pytest.param(web.Response(status=502, text="<html>"), id="502"),
        pytest.param(web.Response(status=404), id="404"),
        pytest.param(web.Response(status=429), id="429"),
        pytest.param(web.Response(status=400), id="flashboot"),
        pytest.param(web.Response(status=204), id="at-once-204"),
        pytest.param(web.Response(text="{", content_type="application/json"), id="bad-json"),
        pytest.param(web.Response(text="{}", content_type="application/json"), id="no-job"),
        pytest.param(web.Response(text="[1]", content_type="application/json"), id="a-number"),
    ],
)
async def test_a_server_that_fails_is_polled_less_and_less_often(
    answer: web.Response, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A few times in half a second instead of thousands of times, and with one log line."""
    server = JobServer(answer)
    async with polled(server, monkeypatch) as session:
        await ask_for(0.5, LongPoll("polls for a job"), session)

    assert 1 <= server.asked <= 8
    assert [line for line in caplog.messages if "polls for a job failed: 1" in line]
    assert len(caplog.messages) == 1


async def test_a_refused_connection_is_a_failure_too(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It used to be retried without a pause."""
    async with polled(JobServer(web.Response()), monkeypatch):
        pass
    async with ClientSession() as session:
        await ask_for(0.5, LongPoll("polls for a job"), session)

    assert len(caplog.messages) == 1
    assert "ClientConnectorError" in caplog.messages[0]


async def test_after_a_poll_that_was_held_the_next_one_goes_at_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A normal 204 causes no pause, and the next failure gets the first pause again."""
    monkeypatch.setattr(long_poll, "MIN_HELD_SECONDS", 0.05)
    server, poll = JobServer(web.Response(status=500)), LongPoll("polls")
    async with polled(server, monkeypatch) as session:
        await ask_for(0.5, poll, session)
        server.answer, server.hold, server.asked = web.Response(status=204), 0.1, 0
        await ask_for(2, poll, session)
        assert server.asked >= 10
        assert poll._backoff.pause() <= long_poll.FIRST_PAUSE_SECONDS
