"""Progress posts: in order, only the newest, and none after the job's end."""

import asyncio

import pytest

from kontext.jobs.progress import Progress, ProgressReporter

GUARD = 10
"""Seconds after which a test that hangs fails."""


class Endpoint:
    """Accepts posts when the test opens its gate; fails or hangs if the test says so."""

    def __init__(self, *, open_at_once: bool = True, failure: Exception | None = None) -> None:
        self.started: list[int] = []
        self.landed: list[Progress] = []
        self.dropped: list[int] = []
        self.failure = failure
        self.gate = asyncio.Event()
        if open_at_once:
            self.gate.set()

    async def post(self, update: Progress) -> None:
        """Receive one post."""
        self.started.append(update["step"])
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.dropped.append(update["step"])
            raise
        if self.failure:
            raise self.failure
        self.landed.append(update)


async def turns(count: int = 10) -> None:
    """Let every other task do what it can."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_every_step_is_posted_when_the_endpoint_is_quick() -> None:
    """An update is an object with step, steps and percent rounded down."""
    endpoint = Endpoint()
    async with ProgressReporter(endpoint.post, 3) as reporter:
        for step in (1, 2, 3):
            reporter.set_steps_done(step)
            await turns()

    assert endpoint.landed == [
        {"step": 1, "steps": 3, "percent": 33},
        {"step": 2, "steps": 3, "percent": 66},
        {"step": 3, "steps": 3, "percent": 100},
    ]


async def test_a_slow_endpoint_gets_the_newest_and_never_two_at_once() -> None:
    """The next post tells the newest progress; the ones in between are skipped."""
    endpoint = Endpoint(open_at_once=False)
    async with ProgressReporter(endpoint.post, 50) as reporter:
        for step in (1, 2, 3, 4):
            reporter.set_steps_done(step)
            await turns()
        assert endpoint.started == [1]
        endpoint.gate.set()
        await turns()

    assert [update["step"] for update in endpoint.landed] == [1, 4]


async def test_the_end_waits_for_the_update_under_way_and_drops_the_rest() -> None:
    """When the block has ended the result may be sent: no post is under way or will be."""
    endpoint = Endpoint(open_at_once=False)
    loop = asyncio.get_running_loop()
    async with ProgressReporter(endpoint.post, 50) as reporter:
        reporter.set_steps_done(1)
        await turns()
        reporter.set_steps_done(2)
        loop.call_later(0.01, endpoint.gate.set)
    landed = [update["step"] for update in endpoint.landed]
    reporter.set_steps_done(3)  # from a thread that does not know yet
    await turns()

    assert landed == endpoint.started == [1]


async def test_a_job_without_a_step_posts_nothing() -> None:
    """A job that fails before its first step has no progress."""
    endpoint = Endpoint()
    with pytest.raises(ArithmeticError):
        async with ProgressReporter(endpoint.post, 2):
            raise ArithmeticError

    assert not endpoint.started


async def test_a_failed_job_waits_for_its_update_too() -> None:
    """Its error is a result like any other, so nothing may come after it."""
    endpoint = Endpoint(open_at_once=False)
    reporter = ProgressReporter(endpoint.post, 2)

    async def fail() -> None:
        async with reporter:
            reporter.set_steps_done(1)
            await turns()
            asyncio.get_running_loop().call_later(0.01, endpoint.gate.set)
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        await fail()
    assert [update["step"] for update in endpoint.landed] == [1]


@pytest.mark.parametrize("during_steps", [True, False], ids=["during-its-steps", "at-its-end"])
async def test_a_cancelled_job_drops_the_update_under_way(during_steps: bool) -> None:
    """Otherwise it could set the cancelled job back to IN_PROGRESS."""
    endpoint = Endpoint(open_at_once=False)

    async def job() -> None:
        async with ProgressReporter(endpoint.post, 2) as reporter:
            reporter.set_steps_done(1)
            await turns()
            if during_steps:
                await asyncio.Event().wait()

    task = asyncio.create_task(job())
    await turns(30)
    task.cancel()
    async with asyncio.timeout(GUARD):
        with pytest.raises(asyncio.CancelledError):
            await task

    assert endpoint.dropped == endpoint.started == [1]
    assert not endpoint.landed


@pytest.mark.parametrize("failure", [OSError("connection reset"), TimeoutError(), ValueError()])
async def test_a_post_that_fails_is_ignored(failure: Exception) -> None:
    """The job goes on, and so do its updates."""
    endpoint = Endpoint(failure=failure)
    async with ProgressReporter(endpoint.post, 2) as reporter:
        reporter.set_steps_done(1)
        await turns()
        endpoint.failure = None
        reporter.set_steps_done(2)
        await turns()

    assert endpoint.started == [1, 2]
    assert endpoint.landed == [{"step": 2, "steps": 2, "percent": 100}]


async def test_a_post_that_hangs_is_dropped() -> None:
    """An endpoint can delay a result only until the timeout of a post."""
    endpoint = Endpoint(open_at_once=False)
    async with asyncio.timeout(GUARD), ProgressReporter(endpoint.post, 2, 0.01) as reporter:
        reporter.set_steps_done(1)
        await turns()

    assert endpoint.dropped == endpoint.started == [1]
