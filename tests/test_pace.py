"""When the next job is wanted."""

import asyncio
from contextlib import ExitStack

import pytest

from kontext.pace import MOST_BEFORE_LANE, Pace


async def is_wanted(pace: Pace) -> bool:
    """Tell whether a job is wanted now."""
    try:
        async with asyncio.timeout(0.02):
            await pace.wanted()
    except TimeoutError:
        return False
    return True


async def test_an_idle_worker_wants_a_job() -> None:
    """Nothing taken, nothing running: at once."""
    assert await is_wanted(Pace(1))


async def test_one_job_is_taken_ahead_at_most() -> None:
    """From the moment it is taken until it has the lane, no other is wanted."""
    pace = Pace(1)
    pace.fetched(1)
    assert not await is_wanted(pace)
    with pace.turn():
        assert not await is_wanted(pace)
    assert await is_wanted(pace)


async def test_nothing_is_taken_before_the_end_can_be_told() -> None:
    """Before the first step nobody knows how long a step takes."""
    pace = Pace(60)
    with pace.turn() as turn:
        turn.enter(steps=10)
        assert not await is_wanted(pace)
        turn.step(1)
        assert await is_wanted(pace)


async def test_a_job_is_wanted_when_the_lane_will_soon_be_free() -> None:
    """Far from its end the running edit keeps others away; near it the next one may come."""
    pace = Pace(0.05)
    with pace.turn() as turn:
        turn.enter(steps=1000)
        await asyncio.sleep(0.01)
        turn.step(1)
        assert not await is_wanted(pace)
        turn.step(998)
        assert await is_wanted(pace)


async def test_waiting_ends_when_its_time_has_come() -> None:
    """Nothing need happen: the expected end alone wakes who waits."""
    pace = Pace(0.05)
    with pace.turn() as turn:
        turn.enter(steps=2)
        await asyncio.sleep(0.15)
        turn.step(1)
        waiting = asyncio.create_task(pace.wanted())
        await asyncio.sleep(0)
        assert not waiting.done()
        async with asyncio.timeout(5):
            await waiting


async def test_with_none_ahead_the_lane_must_be_free() -> None:
    """0 seconds: only when the running edit has ended, but before its result is stored."""
    pace = Pace(0)
    with pace.turn() as turn:
        turn.enter(steps=5)
        await asyncio.sleep(0.01)
        turn.step(1)
        assert not await is_wanted(pace)
        turn.leave()
        assert await is_wanted(pace)


async def test_another_job_is_taken_beside_one_that_is_slow() -> None:
    """A host that hangs keeps its own job waiting, and no other."""
    pace = Pace(1, slow_seconds=0.1)
    pace.fetched(1)
    waiting = asyncio.create_task(pace.wanted())
    await asyncio.sleep(0)  # it waits from before the job has begun, as the SDK's loop does
    with pace.turn():
        assert not await is_wanted(pace)
        async with asyncio.timeout(5):
            await waiting
        with pace.turn():
            assert not await is_wanted(pace)  # that one may be quick


async def test_a_job_that_is_ready_is_not_slow() -> None:
    """It waits for nothing but the lane: another would only wait behind it."""
    pace = Pace(1, slow_seconds=0)
    with pace.turn() as turn:
        assert await is_wanted(pace)
        turn.ready()
        assert not await is_wanted(pace)


async def test_slow_jobs_do_not_bring_others_while_the_lane_is_busy() -> None:
    """The GPU works: a job that is taken now would only wait, and be kept from idle workers."""
    pace = Pace(1, slow_seconds=0)
    with pace.turn(), pace.turn() as turn:
        turn.enter(steps=1000)
        assert not await is_wanted(pace)
        turn.leave()
        assert await is_wanted(pace)


async def test_slow_jobs_are_limited() -> None:
    """Each holds memory, though the lane is idle."""
    pace = Pace(1, slow_seconds=0)
    with ExitStack() as turns:
        for _ in range(MOST_BEFORE_LANE):
            assert await is_wanted(pace)
            turns.enter_context(pace.turn())
        assert not await is_wanted(pace)


async def test_a_job_that_enters_after_its_end_leaves_no_trace() -> None:
    """The lane's thread said so just before the cancel; the worker took no job ever after."""
    pace = Pace(1)
    with pace.turn() as turn:
        pass
    turn.enter(steps=5)

    assert await is_wanted(pace)


async def test_a_job_that_fails_early_makes_room() -> None:
    """A refused input, or a cancelled fetch, keeps no other job away."""
    pace = Pace(1)
    pace.fetched(1)
    with pytest.raises(ValueError, match="refused"), pace.turn():
        raise ValueError("refused")

    assert await is_wanted(pace)


async def test_the_local_modes_fetch_nothing() -> None:
    """A turn that nobody fetched counts once, and leaves no debt."""
    pace = Pace(1)
    with pace.turn():
        pass
    assert await is_wanted(pace)
    pace.fetched(1)
    assert not await is_wanted(pace)
