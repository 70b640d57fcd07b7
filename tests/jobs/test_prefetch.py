"""When the next job is to be fetched."""

import asyncio
from contextlib import ExitStack

import pytest

from kontext.jobs.prefetch import MAX_JOBS_BEFORE_EDIT, Prefetch


async def is_due(prefetch: Prefetch) -> bool:
    """Return whether a job is to be fetched now."""
    try:
        async with asyncio.timeout(0.02):
            await prefetch.wait_until_due()
    except TimeoutError:
        return False
    return True


async def test_an_idle_worker_fetches_a_job() -> None:
    """At once: no job was fetched and none runs."""
    assert await is_due(Prefetch(1))


async def test_at_most_one_job_is_prefetched() -> None:
    """No other is fetched from the moment a job is fetched until it has the GPU."""
    prefetch = Prefetch(1)
    prefetch.count_fetched(1)
    assert not await is_due(prefetch)
    with prefetch.track():
        assert not await is_due(prefetch)
    assert await is_due(prefetch)


async def test_nothing_is_fetched_before_the_first_step() -> None:
    """Until then it is unknown how long a step takes."""
    prefetch = Prefetch(60)
    with prefetch.track() as job:
        job.start_edit(steps=10)
        assert not await is_due(prefetch)
        job.set_steps_done(1)
        assert await is_due(prefetch)


async def test_a_job_is_due_when_the_gpu_will_soon_be_free() -> None:
    """Not while the running edit has many steps left, but near its end."""
    prefetch = Prefetch(0.05)
    with prefetch.track() as job:
        job.start_edit(steps=1000)
        await asyncio.sleep(0.01)
        job.set_steps_done(1)
        assert not await is_due(prefetch)
        job.set_steps_done(998)
        assert await is_due(prefetch)


async def test_waiting_ends_at_the_estimated_time() -> None:
    """No change of a job is needed for that."""
    prefetch = Prefetch(0.05)
    with prefetch.track() as job:
        job.start_edit(steps=2)
        await asyncio.sleep(0.15)
        job.set_steps_done(1)
        waiting = asyncio.create_task(prefetch.wait_until_due())
        await asyncio.sleep(0)
        assert not waiting.done()
        async with asyncio.timeout(5):
            await waiting


async def test_without_prefetch_the_gpu_must_be_free() -> None:
    """With 0 seconds a job is due when the edit has ended, before its result is stored."""
    prefetch = Prefetch(0)
    with prefetch.track() as job:
        job.start_edit(steps=5)
        await asyncio.sleep(0.01)
        job.set_steps_done(1)
        assert not await is_due(prefetch)
        job.end_edit()
        assert await is_due(prefetch)


async def test_another_job_is_fetched_beside_a_slow_one() -> None:
    """A host that hangs delays only its own job."""
    prefetch = Prefetch(1, slow_seconds=0.1)
    prefetch.count_fetched(1)
    waiting = asyncio.create_task(prefetch.wait_until_due())
    await asyncio.sleep(0)  # so that it waits before the job begins, as in the SDK's loop
    with prefetch.track():
        assert not await is_due(prefetch)
        async with asyncio.timeout(5):
            await waiting
        with prefetch.track():
            assert not await is_due(prefetch)  # the second job may be quick


async def test_a_job_that_is_ready_is_not_slow() -> None:
    """It waits only for the GPU, and another job would wait behind it."""
    prefetch = Prefetch(1, slow_seconds=0)
    with prefetch.track() as job:
        assert await is_due(prefetch)
        job.set_ready()
        assert not await is_due(prefetch)


async def test_nothing_is_fetched_beside_slow_jobs_while_the_gpu_is_busy() -> None:
    """A job that is fetched now would wait here, where an idle worker could run it."""
    prefetch = Prefetch(1, slow_seconds=0)
    with prefetch.track(), prefetch.track() as job:
        job.start_edit(steps=1000)
        assert not await is_due(prefetch)
        job.end_edit()
        assert await is_due(prefetch)


async def test_slow_jobs_are_limited() -> None:
    """Each holds memory, so there is a limit even while the GPU is idle."""
    prefetch = Prefetch(1, slow_seconds=0)
    with ExitStack() as jobs:
        for _ in range(MAX_JOBS_BEFORE_EDIT):
            assert await is_due(prefetch)
            jobs.enter_context(prefetch.track())
        assert not await is_due(prefetch)


async def test_an_edit_that_starts_after_its_job_ended_is_ignored() -> None:
    """The GPU's thread sent this just before a cancel; the worker never fetched a job again."""
    prefetch = Prefetch(1)
    with prefetch.track() as job:
        pass
    job.start_edit(steps=5)

    assert await is_due(prefetch)


async def test_a_job_that_fails_early_delays_no_other() -> None:
    """Its input was refused, or its fetch was cancelled."""
    prefetch = Prefetch(1)
    prefetch.count_fetched(1)
    with pytest.raises(ValueError, match="refused"), prefetch.track():
        raise ValueError("refused")

    assert await is_due(prefetch)


async def test_jobs_of_the_local_modes_are_not_counted_as_fetched() -> None:
    """A tracked job that was never counted does not make the count negative."""
    prefetch = Prefetch(1)
    with prefetch.track():
        pass
    assert await is_due(prefetch)
    prefetch.count_fetched(1)
    assert not await is_due(prefetch)
