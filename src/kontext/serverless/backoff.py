"""How long to pause after failures in a row, and how rarely to write of them.

Knows neither HTTP nor Runpod; who retries, what and how often, is its callers' business.
"""

import logging
import math
import random
import time

log = logging.getLogger("kontext")

LOG_SECONDS = 60.0
"""Seconds between two lines about failures of one kind."""


class Backoff:
    """Pauses that double with each failure in a row.

    Half of each is random, so that many workers that fail together do not retry together.

    Args:
        first: Seconds of the first pause, at most.
        longest: Seconds of any pause, at most.
    """

    def __init__(self, first: float, longest: float) -> None:
        self._first = self._next = first
        self._longest = longest

    def pause(self) -> float:
        """Return the seconds to pause after one more failure: half to all of the next pause."""
        seconds = min(self._next, self._longest)
        self._next = seconds * 2
        return seconds * random.uniform(0.5, 1)  # noqa: S311 - no secret

    def reset(self) -> None:
        """Note a success: the next pause is a first one."""
        self._next = self._first


class FailureLog:
    """Writes the first failure at once, and then at most one line a minute, with their number.

    Args:
        what: What fails, in the plural, such as `polls for a job`.
        seconds: Between two lines.
    """

    def __init__(self, what: str, seconds: float = LOG_SECONDS) -> None:
        self._what = what
        self._seconds = seconds
        self._failures = 0
        self._written = -math.inf

    def note(self, failure: str) -> None:
        """Count a failure, and write of it and those before it when the minute is over."""
        self._failures += 1
        now = time.monotonic()
        if now - self._written >= self._seconds:
            log.warning("%s failed: %d, the last: %s", self._what, self._failures, failure)
            self._failures, self._written = 0, now
