"""How a shutdown begins, what it interrupts, and when the process may go on to its own end.

How the process is ended is tested with a whole worker, in `tests/test_production.py`.
"""

import asyncio
from typing import Any

import pytest

from kontext.inference.executor import GpuExecutor
from kontext.serverless.shutdown import Shutdown


def shutdown() -> tuple[Shutdown, asyncio.Event]:
    """Return a shutdown with an hour for its jobs, and the event that begins it."""
    begun = asyncio.Event()
    return Shutdown(begun.set, begun, GpuExecutor(), 3600), begun


@pytest.mark.parametrize(
    ("answer", "begins"),
    [({"output": 1}, False), ({"error": "no"}, False), ({"refresh_worker": True}, True)],
)
async def test_it_begins_after_an_answer_that_asks_for_another_worker(
    answer: dict[str, Any], begins: bool
) -> None:
    """The answer itself is not changed."""
    subject, _ = shutdown()

    async def handler(_job: dict[str, Any]) -> dict[str, Any]:
        return answer

    assert await subject.run_handler(handler, {"id": "job-1"}) == answer
    assert subject.has_begun == begins


async def test_work_that_ends_before_the_shutdown_is_not_interrupted() -> None:
    """Its result is returned, and so is its error."""
    subject, _ = shutdown()

    async def fail() -> None:
        raise ArithmeticError

    assert await subject.interrupt(asyncio.sleep(0, "result")) == "result"
    with pytest.raises(ArithmeticError):
        await subject.interrupt(fail())


async def test_work_is_cancelled_when_the_shutdown_begins() -> None:
    """A long poll must not delay it."""
    subject, begun = shutdown()
    cancelled = asyncio.Event()

    async def poll() -> str:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return "never"

    interrupted = asyncio.create_task(subject.interrupt(poll()))
    await asyncio.sleep(0)
    begun.set()

    async with asyncio.timeout(10):
        assert await interrupted is None
        await cancelled.wait()


async def test_a_worker_without_jobs_returns_from_its_loop() -> None:
    """The process then ends in Python's own way."""
    subject, begun = shutdown()

    async def job_loop() -> None:
        await begun.wait()

    supervised = asyncio.create_task(subject.supervise(job_loop()))
    await asyncio.sleep(0)
    assert not supervised.done()
    begun.set()
    async with asyncio.timeout(10):
        await supervised
