"""Long polls that are repeated at once after a normal answer, and after a pause when they fail.

Knows neither Runpod's addresses nor its answers; whoever asks passes in the request.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from kontext.serverless.backoff import Backoff, FailureLog

T = TypeVar("T")

MOST_SECONDS = 90.0
"""Seconds until a poll is asked anew: as in the SDK."""

HELD_SECONDS = 1.0
"""Seconds from which a poll counts as held. A server holds it until it has something to say, for
half a minute or so; one that answers at once and has nothing would be asked thousands of times a
second."""

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds to pause after the first failure, and after many in a row."""

LONGEST_EMPTY_PAUSE = 1.0
"""Seconds to pause after an empty answer that came at once: a job may be there the next moment."""

TOO_MANY_REQUESTS = 429


class LongPoll:
    """One kind of long poll.

    Args:
        what: Its name in the log, in the plural.
        held: Whether an empty answer that comes at once counts as a failure.
    """

    def __init__(self, what: str, held: bool = True) -> None:
        self._held = held
        self._backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
        self._failures = FailureLog(what)

    async def ask(self, poll: Callable[[], Awaitable[list[T] | None]]) -> list[T]:
        """Return the answer of one poll; an empty one, after a pause, when it fails.

        Args:
            poll: Asks the server once.
        """
        began = time.monotonic()
        try:
            async with asyncio.timeout(MOST_SECONDS):
                answer = await poll() or []
        except TimeoutError:
            answer = []
        except Exception as error:  # noqa: BLE001 - whatever it is, the next poll may succeed
            await self._pause_after(error)
            return []
        if answer or not self._held or time.monotonic() - began >= HELD_SECONDS:
            self._backoff.reset()
        else:
            self._failures.note("it was answered at once, with nothing to do")
            await asyncio.sleep(min(self._backoff.pause(), LONGEST_EMPTY_PAUSE))
        return answer

    async def _pause_after(self, error: Exception) -> None:
        self._failures.note(f"{type(error).__name__}: {error}")
        pause = self._backoff.pause()
        busy = getattr(error, "status", None) == TOO_MANY_REQUESTS
        await asyncio.sleep(LONGEST_PAUSE if busy else pause)
