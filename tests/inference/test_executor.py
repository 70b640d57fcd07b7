"""The GPU executor: one at a time, and a stop that the work itself heeds."""

import asyncio
import threading
from collections.abc import Callable

import pytest

from kontext.errors import Cancelled, WorkerShutdown
from kontext.inference.executor import GpuExecutor, Stop

GUARD = 10
"""Seconds after which a test that hangs fails."""


class Work:
    """Work that holds the executor until it is let go; then it checks whether it should stop."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.let_go = threading.Event()
        self.ended = threading.Event()
        self.stopped = False

    def __call__(self, stop: Stop) -> str:
        self.entered.set()
        self.let_go.wait(GUARD)
        try:
            stop.check()
        except Cancelled:
            self.stopped = True
            raise
        finally:
            self.ended.set()
        return "done"


async def happened(event: threading.Event) -> None:
    """Wait for what another thread does."""
    assert await asyncio.to_thread(event.wait, GUARD)


async def cancel(task: "asyncio.Task[str]") -> None:
    """Cancel a job as the SDK does."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_the_result_of_the_work_is_returned() -> None:
    """The caller gets what the work returns."""
    assert await GpuExecutor().run(lambda _: "done") == "done"


async def test_what_the_work_raises_reaches_its_caller_and_nobody_else() -> None:
    """A failed edit leaves the executor to the next."""
    executor = GpuExecutor()

    def fail(_: Stop) -> None:
        raise ArithmeticError("no image")

    with pytest.raises(ArithmeticError, match="no image"):
        await executor.run(fail)
    assert await executor.run(lambda _: "done") == "done"


async def test_work_never_overlaps_and_keeps_its_order() -> None:
    """However many wait, one runs: the executor has a single thread."""
    executor = GpuExecutor()
    events: list[str] = []

    def work(name: str) -> Callable[[Stop], None]:
        def run(_: Stop) -> None:
            events.append(f"enter {name}")
            threading.Event().wait(0.01)  # in which another would enter
            events.append(f"leave {name}")

        return run

    await asyncio.gather(*(executor.run(work(name)) for name in "abc"))

    assert events == ["enter a", "leave a", "enter b", "leave b", "enter c", "leave c"]


async def test_cancelled_work_sees_the_stop_and_the_next_waits_for_its_end() -> None:
    """The task is gone at once, its thread is not; the executor is free when the thread is."""
    executor, running, waiting = GpuExecutor(), Work(), Work()
    first = asyncio.create_task(executor.run(running))
    await happened(running.entered)
    await cancel(first)
    second = asyncio.create_task(executor.run(waiting))
    await asyncio.sleep(0.05)  # in which it would overtake

    assert not waiting.entered.is_set()
    running.let_go.set()
    waiting.let_go.set()
    assert await second == "done"
    assert running.ended.is_set()
    assert running.stopped
    assert not waiting.stopped


async def test_work_cancelled_while_it_waits_never_runs() -> None:
    """Its turn is passed to the one behind it."""
    executor, running, waiting = GpuExecutor(), Work(), Work()
    first = asyncio.create_task(executor.run(running))
    await happened(running.entered)
    second = asyncio.create_task(executor.run(waiting))
    third = asyncio.create_task(executor.run(lambda _: "third"))
    await asyncio.sleep(0)
    await cancel(second)
    running.let_go.set()

    assert await first == "done"
    assert await third == "third"
    assert not waiting.entered.is_set()


async def test_a_job_that_is_done_is_not_stopped() -> None:
    """Only a caller who no longer waits stops the work."""
    executor, work = GpuExecutor(), Work()
    work.let_go.set()

    assert await executor.run(work) == "done"
    assert not work.stopped


def test_a_stop_is_heeded_from_its_request_on() -> None:
    """Before it `check` does nothing, after it `check` always raises."""
    stop = Stop()
    stop.check()
    stop.request()

    for _ in range(2):
        with pytest.raises(Cancelled):
            stop.check()


async def test_work_that_ignores_its_stop_closes_the_lane() -> None:
    """Who waits fails at once, and so does who comes later; whoever must know is told."""
    executor, hanging = GpuExecutor(stop_timeout_seconds=0.1), Work()
    told = asyncio.Event()
    executor.on_hung = told.set
    first = asyncio.create_task(executor.run(hanging))
    await happened(hanging.entered)
    waiting = asyncio.create_task(executor.run(lambda _: "done"))
    await cancel(first)

    async with asyncio.timeout(GUARD):
        with pytest.raises(WorkerShutdown):
            await waiting
    assert told.is_set()
    assert executor.closed
    with pytest.raises(WorkerShutdown):
        await executor.run(lambda _: "done")
    hanging.let_go.set()


async def test_work_that_heeds_its_stop_in_time_leaves_the_lane_open() -> None:
    """However long it ran before."""
    executor, running = GpuExecutor(stop_timeout_seconds=0.2), Work()
    first = asyncio.create_task(executor.run(running))
    await happened(running.entered)
    await cancel(first)
    running.let_go.set()
    await happened(running.ended)
    await asyncio.sleep(0.3)  # in which it would close

    assert await executor.run(lambda _: "done") == "done"


async def test_a_closed_lane_fails_the_work_that_runs() -> None:
    """The worker's time is up: the job is answered though its thread goes on."""
    executor, running = GpuExecutor(), Work()
    task = asyncio.create_task(executor.run(running))
    await happened(running.entered)
    executor.close()

    with pytest.raises(WorkerShutdown):
        await task
    running.let_go.set()
    await happened(running.ended)
    assert running.stopped
