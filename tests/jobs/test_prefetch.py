"""When the next job is wanted."""

import asyncio
from contextlib import ExitStack

import pytest

from kontext.jobs.prefetch import MOST_BEFORE_EDIT, Prefetch


async def is_wanted(prefetch: Prefetch) -> bool:
    """Tell whether a job is wanted now."""
    try:
        async with asyncio.timeout(0.02):
            await prefetch.wanted()
    except TimeoutError:
        return False
    return True


async def test_an_idle_worker_wants_a_job() -> None:
    """Nothing taken, nothing running: at once."""
    assert await is_wanted(Prefetch(1))


async def test_one_job_is_taken_ahead_at_most() -> None:
    """From the moment it is taken until it has the executor, no other is wanted."""
    prefetch = Prefetch(1)
    prefetch.fetched(1)
    assert not await is_wanted(prefetch)
    with prefetch.turn():
        assert not await is_wanted(prefetch)
    assert await is_wanted(prefetch)


async def test_nothing_is_taken_before_the_end_can_be_told() -> None:
    """Before the first step nobody knows how long a step takes."""
    prefetch = Prefetch(60)
    with prefetch.turn() as turn:
        turn.enter(steps=10)
        assert not await is_wanted(prefetch)
        turn.step(1)
        assert await is_wanted(prefetch)


async def test_a_job_is_wanted_when_the_lane_will_soon_be_free() -> None:
    """Far from its end the running edit keeps others away; near it the next one may come."""
    prefetch = Prefetch(0.05)
    with prefetch.turn() as turn:
        turn.enter(steps=1000)
        await asyncio.sleep(0.01)
        turn.step(1)
        assert not await is_wanted(prefetch)
        turn.step(998)
        assert await is_wanted(prefetch)


async def test_waiting_ends_when_its_time_has_come() -> None:
    """Nothing need happen: the expected end alone wakes who waits."""
    prefetch = Prefetch(0.05)
    with prefetch.turn() as turn:
        turn.enter(steps=2)
        await asyncio.sleep(0.15)
        turn.step(1)
        waiting = asyncio.create_task(prefetch.wanted())
        await asyncio.sleep(0)
        assert not waiting.done()
        async with asyncio.timeout(5):
            await waiting


async def test_with_none_ahead_the_lane_must_be_free() -> None:
    """0 seconds: only when the running edit has ended, but before its result is stored."""
    prefetch = Prefetch(0)
    with prefetch.turn() as turn:
        turn.enter(steps=5)
        await asyncio.sleep(0.01)
        turn.step(1)
        assert not await is_wanted(prefetch)
        turn.leave()
        assert await is_wanted(prefetch)


async def test_another_job_is_taken_beside_one_that_is_slow() -> None:
    """A host that hangs keeps its own job waiting, and no other."""
    prefetch = Prefetch(1, slow_seconds=0.1)
    prefetch.fetched(1)
    waiting = asyncio.create_task(prefetch.wanted())
    await asyncio.sleep(0)  # it waits from before the job has begun, as the SDK's loop does
    with prefetch.turn():
        assert not await is_wanted(prefetch)
        async with asyncio.timeout(5):
            await waiting
        with prefetch.turn():
            assert not await is_wanted(prefetch)  # that one may be quick


async def test_a_job_that_is_ready_is_not_slow() -> None:
    """It waits for nothing but the executor: another would only wait behind it."""
    prefetch = Prefetch(1, slow_seconds=0)
    with prefetch.turn() as turn:
        assert await is_wanted(prefetch)
        turn.ready()
        assert not await is_wanted(prefetch)


async def test_slow_jobs_do_not_bring_others_while_the_lane_is_busy() -> None:
    """The GPU works: a job that is taken now would only wait, and be kept from idle workers."""
    prefetch = Prefetch(1, slow_seconds=0)
    with prefetch.turn(), prefetch.turn() as turn:
        turn.enter(steps=1000)
        assert not await is_wanted(prefetch)
        turn.leave()
        assert await is_wanted(prefetch)


async def test_slow_jobs_are_limited() -> None:
    """Each holds memory, though the executor is idle."""
    prefetch = Prefetch(1, slow_seconds=0)
    with ExitStack() as turns:
        for _ in range(MOST_BEFORE_EDIT):
            assert await is_wanted(prefetch)
            turns.enter_context(prefetch.turn())
        assert not await is_wanted(prefetch)


async def test_a_job_that_enters_after_its_end_leaves_no_trace() -> None:
    """The executor's thread said so just before the cancel; the worker took no job ever after."""
    prefetch = Prefetch(1)
    with prefetch.turn() as turn:
        pass
    turn.enter(steps=5)

    assert await is_wanted(prefetch)


async def test_a_job_that_fails_early_makes_room() -> None:
    """A refused input, or a cancelled fetch, keeps no other job away."""
    prefetch = Prefetch(1)
    prefetch.fetched(1)
    with pytest.raises(ValueError, match="refused"), prefetch.turn():
        raise ValueError("refused")

    assert await is_wanted(prefetch)


async def test_the_local_modes_fetch_nothing() -> None:
    """A turn that nobody fetched counts once, and leaves no debt."""
    prefetch = Prefetch(1)
    with prefetch.turn():
        pass
    assert await is_wanted(prefetch)
    prefetch.fetched(1)
    assert not await is_wanted(prefetch)
