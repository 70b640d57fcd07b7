"""What a caller reads about a job that failed, and whether its worker should be replaced.

Knows the public sentences, and counts internal errors in a row; does not know what jobs do.
"""

from typing import Any

from kontext.errors import INTERNAL, KontextError
from kontext.logs import JobLog


class Failures:
    """Answers failed jobs; one for the life of the worker.

    Args:
        max_internal_errors: The number of internal errors, with no success in between, after which
            the worker asks to be replaced; 0 for never.
    """

    def __init__(self, max_internal_errors: int) -> None:
        self._max_internal_errors = max_internal_errors
        self._internal_errors = 0

    def reset(self) -> None:
        """Forget earlier internal errors, because a job has succeeded."""
        self._internal_errors = 0

    def answer(self, error: Exception, log: JobLog) -> dict[str, Any]:
        """Log the whole cause and return the failed job's answer in the SDK's form.

        Returns:
            `{"error"}` with the public sentence; also `"refresh_worker": True` if the worker should
            be replaced.
        """
        if isinstance(error, KontextError):
            log.warning("failed: %s", error, exc_info=error.__cause__)
            return _answer(str(error), error.refresh_worker)
        log.error("failed: internal error", exc_info=error)
        self._internal_errors += 1
        return _answer(INTERNAL, 0 < self._max_internal_errors <= self._internal_errors)


def _answer(sentence: str, refresh_worker: bool) -> dict[str, Any]:
    return {"error": sentence} | ({"refresh_worker": True} if refresh_worker else {})
