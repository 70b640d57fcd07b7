"""How the phases of a job are measured and listed."""

import re

import pytest

from kontext.jobs.timings import Timings


def test_phases_are_listed_in_their_order() -> None:
    """Each with its seconds, as the log line of a job shows them."""
    timings = Timings()
    for phase in ("fetch", "edit", "store"):
        with timings.measure(phase):
            pass

    assert re.fullmatch(r"fetch \d\.\d{3} s, edit \d\.\d{3} s, store \d\.\d{3} s", str(timings))


def test_a_phase_that_raises_is_measured() -> None:
    """The error passes."""
    timings = Timings()
    with pytest.raises(ArithmeticError), timings.measure("edit"):
        raise ArithmeticError

    assert str(timings).startswith("edit ")


def test_without_phases_there_is_nothing_to_list() -> None:
    """A job that fails at once has none."""
    assert str(Timings()) == ""
