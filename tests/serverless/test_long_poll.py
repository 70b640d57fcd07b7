"""How often a server is asked, by what it answers: real HTTP, through the SDK's own requests."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
from aiohttp import ClientSession, web
from runpod.serverless.modules import rp_job

from kontext.serverless import job_loop, long_poll
from kontext.serverless.backoff import Backoff, FailureLog
from kontext.serverless.long_poll import MAX_PAUSE_SECONDS, LongPoll


class Takes:
    """A server of jobs that counts how often it is asked.

    Attributes:
        answer: What it answers.
        hold: Seconds after which it does.
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
async def polled(takes: Takes, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ClientSession]:
    """Serve, let the SDK ask there, and give the block the session that it asks with."""
    runner = web.ServerRunner(web.Server(takes))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    monkeypatch.setattr(rp_job, "JOB_GET_URL", f"http://127.0.0.1:{port}/job-take/x?gpu=y")
    async with ClientSession() as session:
        yield session
    await runner.cleanup()


async def ask_for(seconds: float, poll: LongPoll, session: ClientSession) -> None:
    """Ask again and again, as the SDK's loop does."""
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
async def test_a_server_that_fails_is_asked_ever_more_rarely(
    answer: web.Response, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A few times in half a second, in place of thousands of times, and with one line."""
    takes = Takes(answer)
    async with polled(takes, monkeypatch) as session:
        await ask_for(0.5, LongPoll("polls for a job"), session)

    assert 1 <= takes.asked <= 8
    assert [line for line in caplog.messages if "polls for a job failed: 1" in line]
    assert len(caplog.messages) == 1


async def test_nobody_listening_is_a_failure_too(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A refused connection used to be retried without a pause."""
    async with polled(Takes(web.Response()), monkeypatch):
        pass
    async with ClientSession() as session:
        await ask_for(0.5, LongPoll("polls for a job"), session)

    assert len(caplog.messages) == 1
    assert "ClientConnectorError" in caplog.messages[0]


async def test_after_a_poll_that_was_held_the_next_one_goes_at_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A normal 204 costs no pause, and makes the next pause a first one again."""
    monkeypatch.setattr(long_poll, "MIN_HELD_SECONDS", 0.05)
    takes, poll = Takes(web.Response(status=500)), LongPoll("polls")
    async with polled(takes, monkeypatch) as session:
        await ask_for(0.5, poll, session)
        takes.answer, takes.hold, takes.asked = web.Response(status=204), 0.1, 0
        await ask_for(2, poll, session)
        assert takes.asked >= 10
        assert poll._backoff.pause() <= long_poll.FIRST_PAUSE_SECONDS


def test_pauses_double_up_to_the_longest_until_a_success() -> None:
    """Half of each is random."""
    backoff = Backoff(0.1, MAX_PAUSE_SECONDS)
    pauses = [backoff.pause() for _ in range(20)]
    for pause, most in zip(pauses, [0.1, 0.2, 0.4, 0.8, 1.6, 3.2] + [5.0] * 14, strict=True):
        assert most / 2 <= pause <= most
    backoff.reset()

    assert backoff.pause() <= 0.1
    assert len(set(pauses)) == 20


def test_a_line_tells_how_many_failed_since_the_last_one(caplog: pytest.LogCaptureFixture) -> None:
    """The first is written at once, the next when the time has passed."""
    failures = FailureLog("posts", seconds=3600)
    for number in range(5):
        failures.note(f"no {number}")
    failures._seconds = 0
    failures.note("no 5")

    assert caplog.messages == ["posts failed: 1, the last: no 0", "posts failed: 5, the last: no 5"]
