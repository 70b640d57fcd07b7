"""Doing what must be done to the queue, though its file may be locked or its disk full for long."""

import asyncio
import logging
from collections.abc import Callable
from typing import TypeVar

from kontext.local.errors import QueueUnavailable

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
"""Seconds between tries; they double from the first to the longest."""

T = TypeVar("T")
log = logging.getLogger("kontext")


async def when_available(change: Callable[[], T], purpose: str) -> T:
    """Make a change now, or as soon as the queue's file permits; return its result.

    Args:
        change: One transaction.
        purpose: What waits, for the log.
    """
    pause = FIRST_PAUSE
    while True:
        try:
            return change()
        except QueueUnavailable as error:
            log.warning("%s: %s; tried again in %g s", purpose, error.__cause__, pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
