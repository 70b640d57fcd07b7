"""Long polls: after a normal answer the next one follows at once, after a failure it is delayed.

Does not know Runpod's addresses or answers; the caller passes in the request.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from kontext.serverless.backoff import Backoff, FailureLog

T = TypeVar("T")

POLL_TIMEOUT_SECONDS = 90.0
"""How long a poll may take; the SDK's own value."""

MIN_HELD_SECONDS = 1.0
"""The time from which a poll counts as held. A server holds a poll until it has something to say,
for half a minute or so; one that answers at once with nothing would otherwise be asked thousands of
times a second."""

FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.1, 5.0
"""The pause after the first failure, and after many in a row."""

MAX_EMPTY_PAUSE_SECONDS = 1.0
"""The longest pause after an empty answer that came at once: a job may arrive at any moment."""

TOO_MANY_REQUESTS = 429


class LongPoll:
    """One kind of long poll.

    Args:
        what: The name of these polls in the log, in the plural.
        must_be_held: Whether an empty answer that comes at once counts as a failure.
    """

    def __init__(self, what: str, must_be_held: bool = True) -> None:
        self._must_be_held = must_be_held
        self._backoff = Backoff(FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS)
        self._failures = FailureLog(what)

    async def ask(self, request: Callable[[], Awaitable[list[T] | None]]) -> list[T]:
        """Poll once and return the answer; if the poll fails, pause and return an empty list.

        Args:
            request: The call that asks the server and returns the server's answer.
        """
        began = time.monotonic()
        try:
            async with asyncio.timeout(POLL_TIMEOUT_SECONDS):
                answer = await request() or []
        except TimeoutError:
            answer = []
        except Exception as error:  # noqa: BLE001 - the next poll may succeed
            await self._pause_after(error)
            return []
        if answer or not self._must_be_held or time.monotonic() - began >= MIN_HELD_SECONDS:
            self._backoff.reset()
        else:
            self._failures.note("it was answered at once, with nothing to do")
            await asyncio.sleep(min(self._backoff.pause(), MAX_EMPTY_PAUSE_SECONDS))
        return answer

    async def _pause_after(self, error: Exception) -> None:
        self._failures.note(f"{type(error).__name__}: {error}")
        pause = self._backoff.pause()
        busy = getattr(error, "status", None) == TOO_MANY_REQUESTS
        await asyncio.sleep(MAX_PAUSE_SECONDS if busy else pause)
