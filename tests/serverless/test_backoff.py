"""Pauses after failures, and the log lines about them."""

import pytest

from kontext.serverless.backoff import Backoff, FailureLog


def test_pauses_double_up_to_the_longest_until_a_success() -> None:
    """Half of each is random."""
    backoff = Backoff(0.1, 5.0)
    pauses = [backoff.pause() for _ in range(20)]
    for pause, most in zip(pauses, [0.1, 0.2, 0.4, 0.8, 1.6, 3.2] + [5.0] * 14, strict=True):
        assert most / 2 <= pause <= most
    backoff.reset()

    assert backoff.pause() <= 0.1
    assert len(set(pauses)) == 20


def test_a_line_says_how_many_failed_since_the_last_one(caplog: pytest.LogCaptureFixture) -> None:
    """The first is logged at once, the next when the time has passed."""
    failures = FailureLog("posts", seconds=3600)
    for number in range(5):
        failures.note(f"no {number}")
    failures._seconds = 0
    failures.note("no 5")

    assert caplog.messages == ["posts failed: 1, the last: no 0", "posts failed: 5, the last: no 5"]
