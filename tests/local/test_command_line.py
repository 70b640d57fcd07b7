"""The options of `python -m kontext.local`, without starting the server."""

from pathlib import Path

import pytest

from kontext.errors import BootError
from kontext.local import MAX_WAITING_JOBS
from kontext.local.command_line import build_parser, check_arguments
from kontext.local.shutdown import GRACE_SECONDS


@pytest.fixture
def handler(tmp_path: Path) -> str:
    """A program that exists."""
    path = tmp_path / "handler.py"
    path.touch()
    return str(path)


def test_the_defaults_are_accepted(handler: str) -> None:
    """Without options, the server is bound to loopback and has the default limits."""
    arguments = build_parser().parse_args(["--handler", handler])
    check_arguments(arguments)

    assert arguments.host == "127.0.0.1"
    assert (arguments.grace, arguments.queue_limit) == (GRACE_SECONDS, MAX_WAITING_JOBS)
    assert arguments.workers is None


@pytest.mark.parametrize("option", [("--grace", "0"), ("--workers", "1"), ("--queue-limit", "1")])
def test_the_smallest_value_is_accepted(option: tuple[str, str], handler: str) -> None:
    """No error is raised for it."""
    check_arguments(build_parser().parse_args(["--handler", handler, *option]))


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        (("--grace", "-1"), "--grace must be 0 or more seconds, got -1"),
        (("--grace", "nan"), "--grace must be 0 or more seconds, got nan"),
        (("--workers", "0"), "--workers must be at least 1"),
        (("--queue-limit", "0"), "--queue-limit must be at least 1, got 0"),
    ],
    ids=str,
)
def test_a_value_below_the_limit_is_refused(
    option: tuple[str, str], sentence: str, handler: str
) -> None:
    """The sentence names the option and its limit."""
    arguments = build_parser().parse_args(["--handler", handler, *option])
    with pytest.raises(BootError) as refused:
        check_arguments(arguments)

    assert str(refused.value) == sentence
