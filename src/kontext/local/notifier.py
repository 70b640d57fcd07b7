"""Lets coroutines wait for a change by the name of a topic.

Works in memory and within one event loop. Does not know what has changed.
"""

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Notifier:
    """Wakes the coroutines that wait for a topic."""

    def __init__(self) -> None:
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._is_closed = False

    def close(self) -> None:
        """End every `poll`, those of the future included, with the value of the moment."""
        self._is_closed = True
        for topic in list(self._waiting):
            self.notify(topic)

    def notify(self, topic: str) -> None:
        """Wake every coroutine that waits for `topic`."""
        for event in self._waiting.pop(topic, ()):
            event.set()

    async def wait(self, topic: str, seconds: float) -> None:
        """Return at the next notification of `topic`, or after `seconds`."""
        event = asyncio.Event()
        self._waiting[topic].add(event)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await event.wait()
        finally:
            self._waiting[topic].discard(event)
            if not self._waiting[topic]:
                del self._waiting[topic]

    async def poll(
        self, topic: str, seconds: float, read: Callable[[], T], is_enough: Callable[[T], bool]
    ) -> T:
        """Read a value at each notification of `topic`; return the first that is enough.

        Args:
            topic: The topic to wait for between two reads.
            seconds: Time after which the last value is returned, enough or not.
            read: A function that returns the value; it is called at once, too.
            is_enough: A function that tells whether waiting is over.
        """
        deadline = time.monotonic() + seconds
        while not is_enough(value := read()) and (left := deadline - time.monotonic()) > 0:
            if self._is_closed:
                break
            await self.wait(topic, left)
        return value
