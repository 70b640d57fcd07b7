"""The GPU executor: one piece of work at a time, and a stop that the work itself checks."""

import asyncio
import threading
from collections.abc import Callable

import pytest

from kontext.errors import Cancelled, WorkerShutdown
from kontext.inference.executor import GpuExecutor, Stop

TIMEOUT_SECONDS = 10
"""The seconds after which a test that hangs fails."""


class Work:
    """Work that blocks the GPU thread until it is released, and then checks for a stop."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.released = threading.Event()
        self.ended = threading.Event()
        self.stopped = False

    def __call__(self, stop: Stop) -> str:
        self.entered.set()
        self.released.wait(TIMEOUT_SECONDS)
        try:
            stop.check()
        except Cancelled:
            self.stopped = True
            raise
        finally:
            self.ended.set()
        return "done"


async def happened(event: threading.Event) -> None:
    """Wait for an event that another thread sets."""
    assert await asyncio.to_thread(event.wait, TIMEOUT_SECONDS)


async def cancel(task: "asyncio.Task[str]") -> None:
    """Cancel a job as the SDK does."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_the_result_of_the_work_is_returned() -> None:
    """The caller gets what the work returns."""
    assert await GpuExecutor().run(lambda _: "done") == "done"


async def test_what_the_work_raises_reaches_only_its_caller() -> None:
    """After a failed edit the executor runs the next."""
    executor = GpuExecutor()

    def fail(_: Stop) -> None:
        raise ArithmeticError("no image")

    with pytest.raises(ArithmeticError, match="no image"):
        await executor.run(fail)
    assert await executor.run(lambda _: "done") == "done"


async def test_work_never_overlaps_and_keeps_its_order() -> None:
    """However much work waits, one piece runs: the executor has a single thread."""
    executor = GpuExecutor()
    events: list[str] = []

    def work(name: str) -> Callable[[Stop], None]:
        def run(_: Stop) -> None:
            events.append(f"enter {name}")
            threading.Event().wait(0.01)  # time in which another could enter
            events.append(f"leave {name}")

        return run

    await asyncio.gather(*(executor.run(work(name)) for name in "abc"))

    assert events == ["enter a", "leave a", "enter b", "leave b", "enter c", "leave c"]


async def test_cancelled_work_sees_the_stop_and_the_next_waits_for_its_end() -> None:
    """The task ends at once, but its thread goes on until the work stops."""
    executor, running, waiting = GpuExecutor(), Work(), Work()
    first = asyncio.create_task(executor.run(running))
    await happened(running.entered)
    await cancel(first)
    second = asyncio.create_task(executor.run(waiting))
    await asyncio.sleep(0.05)  # time in which it could overtake

    assert not waiting.entered.is_set()
    running.released.set()
    waiting.released.set()
    assert await second == "done"
    assert running.ended.is_set()
    assert running.stopped
    assert not waiting.stopped


async def test_work_cancelled_while_it_waits_never_runs() -> None:
    """The work behind it runs next."""
    executor, running, waiting = GpuExecutor(), Work(), Work()
    first = asyncio.create_task(executor.run(running))
    await happened(running.entered)
    second = asyncio.create_task(executor.run(waiting))
    third = asyncio.create_task(executor.run(lambda _: "third"))
    await asyncio.sleep(0)
    await cancel(second)
    running.released.set()

    assert await first == "done"
    assert await third == "third"
    assert not waiting.entered.is_set()


async def test_a_job_that_is_done_is_not_stopped() -> None:
    """Work is stopped only when its caller no longer waits."""
    executor, work = GpuExecutor(), Work()
    work.released.set()

    assert await executor.run(work) == "done"
    assert not work.stopped


def test_a_stop_takes_effect_from_its_request_on() -> None:
    """Before it `check` does nothing, after it `check` always raises."""
    stop = Stop()
    stop.check()
    stop.request()

    for _ in range(2):
        with pytest.raises(Cancelled):
            stop.check()


async def test_work_that_ignores_its_stop_closes_the_executor() -> None:
    """Waiting and later calls fail at once, and `on_hung` is called."""
    executor, hanging = GpuExecutor(stop_timeout_seconds=0.1), Work()
    reported = asyncio.Event()
    executor.on_hung = reported.set
    first = asyncio.create_task(executor.run(hanging))
    await happened(hanging.entered)
    waiting = asyncio.create_task(executor.run(lambda _: "done"))
    await cancel(first)

    async with asyncio.timeout(TIMEOUT_SECONDS):
        with pytest.raises(WorkerShutdown):
            await waiting
    assert reported.is_set()
    assert executor.closed
    with pytest.raises(WorkerShutdown):
        await executor.run(lambda _: "done")
    hanging.released.set()


async def test_work_that_stops_in_time_leaves_the_executor_open() -> None:
    """However long it ran before the stop."""
    executor, running = GpuExecutor(stop_timeout_seconds=0.2), Work()
    first = asyncio.create_task(executor.run(running))
    await happened(running.entered)
    await cancel(first)
    running.released.set()
    await happened(running.ended)
    await asyncio.sleep(0.3)  # time in which it would close

    assert await executor.run(lambda _: "done") == "done"


async def test_closing_the_executor_fails_the_work_that_runs() -> None:
    """At the end of a shutdown the job is answered, although its thread goes on."""
    executor, running = GpuExecutor(), Work()
    task = asyncio.create_task(executor.run(running))
    await happened(running.entered)
    executor.close()

    with pytest.raises(WorkerShutdown):
        await task
    running.released.set()
    await happened(running.ended)
    assert running.stopped
