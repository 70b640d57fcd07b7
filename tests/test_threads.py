"""Blocking calls in daemon threads."""

import asyncio
import subprocess
import sys
import threading

import pytest

from kontext.threads import DaemonThreads

GUARD = 10
"""Seconds after which a test that hangs fails."""

EXIT_DURING_A_CALL = """
import asyncio, threading
from kontext.threads import DaemonThreads

async def main():
    asyncio.create_task(DaemonThreads(1).run(threading.Event().wait))
    await asyncio.sleep(0.1)

asyncio.run(main())
"""


async def test_a_call_returns_its_result() -> None:
    """It gets its arguments and runs in another thread."""
    assert await DaemonThreads(1).run(max, 3, 7) == 7
    assert await DaemonThreads(1).run(threading.get_ident) != threading.get_ident()


@pytest.mark.parametrize("error", [KeyError("x"), StopIteration(), asyncio.CancelledError()])
async def test_what_a_call_raises_is_raised_where_it_is_awaited(error: BaseException) -> None:
    """This includes exceptions that asyncio cannot deliver."""

    def fail() -> None:
        raise error

    async with asyncio.timeout(GUARD):
        with pytest.raises((KeyError, RuntimeError)):
            await DaemonThreads(1).run(fail)


async def test_a_call_that_is_no_longer_awaited_counts_until_it_ends() -> None:
    """Threads that hang do not accumulate: the next call waits until one ends."""
    threads, end = DaemonThreads(1), threading.Event()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(threads.run(end.wait), 0.05)
    following = asyncio.create_task(threads.run(max, 3, 7))
    await asyncio.sleep(0.05)  # in which it would start

    assert not following.done()
    end.set()
    async with asyncio.timeout(GUARD):
        assert await following == 7


def test_a_call_that_hangs_does_not_delay_the_exit() -> None:
    """Python waits for asyncio's own threads, but not for these."""
    ended = subprocess.run(
        [sys.executable, "-c", EXIT_DURING_A_CALL], check=True, timeout=GUARD, capture_output=True
    )

    assert not ended.stderr
