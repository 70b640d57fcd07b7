"""Waiting for something to change, by name; in memory, within one event loop."""

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Signals:
    """Wakes whoever waits for a topic."""

    def __init__(self) -> None:
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._closed = False

    def close(self) -> None:
        """End all waiting, for good: whoever polls gets what there is."""
        self._closed = True
        for topic in list(self._waiting):
            self.send(topic)

    def send(self, topic: str) -> None:
        """Wake all who wait for `topic`."""
        for event in self._waiting.pop(topic, ()):
            event.set()

    async def wait(self, topic: str, seconds: float) -> None:
        """Return when `topic` is sent, or after `seconds`."""
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
        self, topic: str, seconds: float, look: Callable[[], T], enough: Callable[[T], bool]
    ) -> T:
        """Look, and again whenever `topic` is sent, until it is enough or `seconds` are over."""
        deadline = time.monotonic() + seconds
        while not enough(seen := look()) and (left := deadline - time.monotonic()) > 0:
            if self._closed:
                break
            await self.wait(topic, left)
        return seen
