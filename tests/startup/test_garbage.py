"""Garbage collection around a boot."""

import gc
from collections.abc import Iterator

import pytest

from kontext.startup import garbage


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """The collector is as it was, and no object stays frozen."""
    yield
    gc.unfreeze()
    gc.enable()


def test_nothing_is_collected_until_the_end_of_the_boot() -> None:
    """Then the collector runs again."""
    garbage.pause()
    assert not gc.isenabled()

    garbage.resume()
    assert gc.isenabled()


def test_objects_made_at_boot_are_not_searched_later() -> None:
    """They stay for the life of the process."""
    garbage.pause()
    made_at_boot: list[object] = [[]]
    garbage.resume()

    assert gc.get_freeze_count() > 0
    assert not any(found is made_at_boot for found in gc.get_objects())
