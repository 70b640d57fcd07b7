"""Posts to an endpoint that fails, over real HTTP."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import ClientError, ClientResponseError, ClientSession, web

from kontext.serverless import result_post

RESET = 0
"""Instead of a status: the connection is reset."""

SILENCE = -1
"""Instead of a status: no answer comes."""


class Endpoint:
    """Answers with each of `statuses` in turn, then always with the last; keeps what was sent."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.sent: list[tuple[str, str]] = []

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        self.sent.append((request.headers["X-Request-ID"], await request.text()))
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        if status == SILENCE:
            await asyncio.sleep(1)
        if status == RESET:
            assert request.transport
            request.transport.abort()
        return web.Response(status=max(200, status))


@asynccontextmanager
async def served(endpoint: Endpoint) -> AsyncIterator[tuple[ClientSession, str]]:
    """Serve while the block runs; yields a session and the address to post to."""
    runner = web.ServerRunner(web.Server(endpoint), shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with ClientSession(headers={"X-Request-ID": "job-1"}) as session:
        yield session, f"http://127.0.0.1:{runner.addresses[0][1]}/job-done/pod/job-1?gpu=x"
    await runner.cleanup()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the pauses."""
    monkeypatch.setattr(result_post, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(result_post, "MAX_PAUSE_SECONDS", 0.02)


async def test_a_post_is_repeated_until_it_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """After server errors, too many requests, a reset and a silence."""
    monkeypatch.setattr(result_post, "ATTEMPT_TIMEOUT_SECONDS", 0.2)
    endpoint = Endpoint(500, 502, 503, 504, 429, RESET, SILENCE, 200)
    async with served(endpoint) as (session, url):
        await result_post.post(session, url, '{"output": "ü"}')

    assert endpoint.sent == [("job-1", '{"output": "ü"}')] * 8


async def test_a_repeated_post_keeps_its_job_id() -> None:
    """The SDK writes each job's id into the session that all jobs share."""
    endpoint = Endpoint(500, 200)
    async with served(endpoint) as (session, url):
        first = asyncio.create_task(result_post.post(session, url, "{}"))
        while not endpoint.sent:  # noqa: ASYNC110
            await asyncio.sleep(0)
        session.headers["X-Request-ID"] = "job-2"
        await first

    assert [job_id for job_id, _ in endpoint.sent] == ["job-1", "job-1"]


@pytest.mark.parametrize("status", [400, 401, 404, 413])
async def test_a_refusal_is_final(status: int) -> None:
    """The same post would be refused again."""
    endpoint = Endpoint(status)
    async with served(endpoint) as (session, url):
        with pytest.raises(ClientResponseError, match=str(status)):
            await result_post.post(session, url, "{}")

    assert len(endpoint.sent) == 1


async def test_an_endless_outage_ends_in_an_error_that_the_sdk_logs() -> None:
    """It catches and logs a `ClientError`; any other exception would end as a traceback."""
    endpoint = Endpoint(500)
    async with served(endpoint) as (session, url):
        with pytest.raises(ClientError, match=r"not taken in 0\.2 seconds"):
            await result_post.post(session, url, "{}", seconds=0.2)

    assert len(endpoint.sent) > 3
