"""The error of a queue whose file is locked or whose disk is full, and how long to retry then."""

import asyncio
import logging
from collections.abc import Callable
from typing import TypeVar

MIN_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 1.0, 30.0
"""The first and the longest pause between two tries; each is twice the one before."""

T = TypeVar("T")
log = logging.getLogger("kontext")


class QueueUnavailable(Exception):
    """The queue's file cannot be read or written now: it is locked, or its disk is full.

    Args:
        reason: SQLite's message, which contains no path.
    """

    def __init__(self, reason: object) -> None:
        super().__init__(f"the queue is unavailable: {reason}; try again later")


async def retry_until_available(transaction: Callable[[], T], purpose: str) -> T:
    """Run a transaction, again and again until the queue's file permits it; return its result.

    Args:
        transaction: A function that runs one transaction.
        purpose: A phrase for the log, such as `recording a result`.
    """
    pause = MIN_PAUSE_SECONDS
    while True:
        try:
            return transaction()
        except QueueUnavailable as error:
            log.warning("%s: %s; tried again in %g s", purpose, error.__cause__, pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, MAX_PAUSE_SECONDS)
