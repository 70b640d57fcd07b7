"""The answer to a failed job, and when it asks for another worker."""

import logging

import pytest

from kontext.errors import INTERNAL, FetchError, GpuFault, InvalidRequest
from kontext.jobs.failures import Failures
from kontext.logs import JobLog

LOG = JobLog("job-1")


def test_a_known_error_is_answered_with_its_own_sentence() -> None:
    """The caller can act on it, and the worker is fine."""
    assert Failures(1).answer(InvalidRequest("seed is wrong"), LOG) == {"error": "seed is wrong"}


def test_an_error_can_ask_for_another_worker() -> None:
    """A lost GPU does so at once, whatever the limit of internal errors is."""
    assert Failures(0).answer(GpuFault(), LOG) == {
        "error": GpuFault.sentence,
        "refresh_worker": True,
    }


def test_internal_errors_in_a_row_ask_for_another_worker() -> None:
    """Known errors in between do not count, and a success starts the count again."""
    failures, internal = Failures(2), {"error": INTERNAL}

    assert failures.answer(RuntimeError("private"), LOG) == internal
    failures.reset()
    assert failures.answer(RuntimeError("private"), LOG) == internal
    assert failures.answer(InvalidRequest("wrong"), LOG) == {"error": "wrong"}
    assert failures.answer(RuntimeError("private"), LOG) == internal | {"refresh_worker": True}


def test_with_a_limit_of_0_internal_errors_never_ask_for_another_worker() -> None:
    """The deployer has switched it off."""
    failures = Failures(0)

    assert [failures.answer(OSError(), LOG) for _ in range(9)] == [{"error": INTERNAL}] * 9


@pytest.mark.parametrize(
    ("error", "level"),
    [(FetchError("refused"), logging.WARNING), (RuntimeError("private"), logging.ERROR)],
)
def test_the_log_has_the_cause_and_the_jobs_id(
    error: Exception, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A known error is a warning with its cause; an unknown one is an error with itself."""
    error.__cause__ = OSError("the private cause")
    Failures(3).answer(error, LOG)
    (record,) = caplog.records

    assert record.levelno == level
    assert record.__dict__["job_id"] == "job-1"
    assert "the private cause" in caplog.text
