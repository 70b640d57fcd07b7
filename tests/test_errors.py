"""The tree of errors: the public sentence of each, and the drawing in the module's docstring."""

import re

import pytest

from kontext import errors
from kontext.errors import INTERNAL, FetchError, GpuFault, KontextError, UnsafeImage, WorkerShutdown


def descendants(kind: type[KontextError]) -> set[type[KontextError]]:
    """Return every subclass, direct or not."""
    direct = kind.__subclasses__()
    return set(direct).union(*map(descendants, direct))


@pytest.mark.parametrize("kind", [UnsafeImage, GpuFault, WorkerShutdown])
def test_an_error_has_the_sentence_of_its_class(kind: type[KontextError]) -> None:
    """It is raised without arguments, and the documentation shows the same sentence."""
    assert str(kind()) == kind.sentence == kind.example
    assert str(kind()) != INTERNAL


def test_a_sentence_that_is_given_replaces_the_one_of_the_class() -> None:
    """Most errors name the field or host and the rule."""
    assert str(FetchError("no")) == "no"
    assert str(KontextError()) == INTERNAL


def test_the_docstring_draws_the_whole_tree() -> None:
    """A new error is added to the drawing."""
    drawn = re.findall(r"── (\w+)", errors.__doc__ or "")

    assert sorted(drawn) == sorted(kind.__name__ for kind in descendants(KontextError))
