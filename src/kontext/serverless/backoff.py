"""Pauses that grow with failures in a row, and a log that mentions failures once a minute.

Does not know HTTP or Runpod; its callers decide what to retry and how often.
"""

import logging
import math
import random
import time

log = logging.getLogger("kontext")

LOG_SECONDS = 60.0
"""Seconds between two log lines about failures of one kind."""


class Backoff:
    """Pauses that double with each failure in a row.

    Half of each is random, so that many workers that fail together do not retry together.

    Args:
        first: The first pause, in seconds, at most.
        longest: Any later pause, in seconds, at most.
    """

    def __init__(self, first: float, longest: float) -> None:
        self._first = self._next = first
        self._longest = longest

    def pause(self) -> float:
        """Return how many seconds to pause after one more failure."""
        seconds = min(self._next, self._longest)
        self._next = seconds * 2
        return seconds * random.uniform(0.5, 1)  # noqa: S311 - no secret

    def reset(self) -> None:
        """Start again with the first pause, after a success."""
        self._next = self._first


class FailureLog:
    """Logs the first failure at once, and then at most one line a minute with their number.

    Args:
        what: The name of what fails, in the plural, such as `polls for a job`.
        seconds: The shortest time between two lines.
    """

    def __init__(self, what: str, seconds: float = LOG_SECONDS) -> None:
        self._what = what
        self._seconds = seconds
        self._failures = 0
        self._logged_at = -math.inf

    def note(self, failure: str) -> None:
        """Count a failure; log the count and this failure if the last line is old enough."""
        self._failures += 1
        now = time.monotonic()
        if now - self._logged_at >= self._seconds:
            log.warning("%s failed: %d, the last: %s", self._what, self._failures, failure)
            self._failures, self._logged_at = 0, now
