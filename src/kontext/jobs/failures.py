"""What a caller is told of a job that failed, and whether its worker should be replaced.

Knows public sentences and how often in a row the worker itself was at fault; nothing of what jobs
do.
"""

from typing import Any

from kontext.errors import INTERNAL, KontextError
from kontext.logs import JobLog


class Failures:
    """Answers failed jobs; one for the life of the worker.

    Args:
        max_internal_errors: After so many internal errors, with no success in between, the
            worker asks to be replaced; 0 never.
    """

    def __init__(self, max_internal_errors: int) -> None:
        self._most_internal_errors = max_internal_errors
        self._internal_errors = 0

    def succeeded(self) -> None:
        """Note a job that succeeded: the worker can work."""
        self._internal_errors = 0

    def answer(self, error: Exception, log: JobLog) -> dict[str, Any]:
        """Return the SDK's form of a failed job, and log the whole cause."""
        if isinstance(error, KontextError):
            log.warning("failed: %s", error, exc_info=error.__cause__)
            return _answer(str(error), error.refresh_worker)
        log.error("failed: internal error", exc_info=error)
        self._internal_errors += 1
        return _answer(INTERNAL, 0 < self._most_internal_errors <= self._internal_errors)


def _answer(sentence: str, refresh_worker: bool) -> dict[str, Any]:
    return {"error": sentence} | ({"refresh_worker": True} if refresh_worker else {})
