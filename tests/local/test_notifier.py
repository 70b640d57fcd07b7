"""Waiting for a topic: what ends it, and what it returns."""

import asyncio

from kontext.local.notifier import Notifier

LONG = 3600.0
"""Seconds that no test waits for."""


async def test_a_notification_ends_every_poll_of_its_topic() -> None:
    """Each reads the value again and returns it if it is enough; other topics go on waiting."""
    notifier, values = Notifier(), [1]
    polls = [
        asyncio.create_task(notifier.poll(topic, LONG, lambda: values[-1], lambda v: v == 3))
        for topic in ("job-1", "job-1", "job-2")
    ]
    await asyncio.sleep(0)
    for value in (2, 3):
        values.append(value)
        notifier.notify("job-1")
        await asyncio.sleep(0)
    async with asyncio.timeout(20):
        results = [await poll for poll in polls[:2]]

    assert results == [3, 3]
    assert not polls[2].done()
    polls[2].cancel()


async def test_a_poll_that_times_out_returns_the_last_value() -> None:
    """Enough or not."""
    assert await Notifier().poll("job-1", 0.01, lambda: 1, lambda _: False) == 1


async def test_a_closed_notifier_keeps_no_poll_waiting() -> None:
    """Neither those that wait already nor later ones."""
    notifier = Notifier()
    waiting = asyncio.create_task(notifier.poll("job-1", LONG, lambda: 1, lambda _: False))
    await asyncio.sleep(0)
    notifier.close()

    async with asyncio.timeout(20):
        assert await waiting == 1
        assert await notifier.poll("job-2", LONG, lambda: 2, lambda _: False) == 2
