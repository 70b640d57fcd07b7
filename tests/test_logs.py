"""The log: the job of a line, its format, and what it must not contain."""

import json
import logging
import os
from collections.abc import Iterator

import pytest

from kontext import logs
from kontext.errors import FetchError, SettingsError
from kontext.logs import JobLog, PlainFormatter, RunpodFormatter


@pytest.fixture
def restored() -> Iterator[None]:
    """Undo what `configure` changes."""
    root, ours, environment = logging.getLogger(), logging.getLogger("kontext"), dict(os.environ)
    handlers, levels = root.handlers, (root.level, ours.level)
    yield
    root.handlers, (root.level, ours.level) = handlers, levels
    os.environ.clear()
    os.environ.update(environment)


def record(message: str, level: int = logging.INFO, **more: object) -> logging.LogRecord:
    """Return a record of the log."""
    name = logging.getLevelName(level)
    return logging.makeLogRecord({"msg": message, "levelno": level, "levelname": name, **more})


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    """Return the error after raising it, with its traceback."""
    try:
        raise error from cause
    except type(error):
        return error


@pytest.mark.parametrize(
    ("written", "read"),
    [
        pytest.param(
            "GET https://h.example/p.png?token=t&x=1 failed",
            "GET https://h.example/p.png?... failed",
            id="query",
        ),
        pytest.param("'http://h.example?t' was", "'http://h.example?...' was", id="quoted"),
        pytest.param("https://me:pass@h.example/p", "https://h.example/p", id="credentials"),
        pytest.param(
            "s3://a?b=1 and http://u@h:1/?c", "s3://a?... and http://h:1/?...", id="two-urls"
        ),
        pytest.param("is it 4*4? no: me@home", "is it 4*4? no: me@home", id="no-url"),
    ],
)
def test_query_and_credentials_of_a_url_are_not_logged(written: str, read: str) -> None:
    """They contain tokens and signatures."""
    assert PlainFormatter("%(message)s").format(record(written)) == read


def test_a_url_in_a_traceback_is_shortened_too() -> None:
    """An exception's message may contain any URL."""
    error = raised(OSError("no answer from https://u:p@h.example/p?signature=s"))
    info = (type(error), error, error.__traceback__)
    text = PlainFormatter().format(record("failed", logging.ERROR, exc_info=info))

    assert text.startswith("ERROR  | worker | failed\nTraceback (most recent call last):\n")
    assert text.endswith("OSError: no answer from https://h.example/p?...")


def test_a_foreseen_failure_has_its_causes_in_one_line() -> None:
    """A library's traceback of sixty lines would hide its sentence."""
    refused = raised(ConnectionRefusedError("refused"))
    error = raised(OSError("unreachable"), refused)
    info = (type(error), error, error.__traceback__)
    text = PlainFormatter("%(message)s").format(record("failed", logging.WARNING, exc_info=info))

    assert text == "failed\ncause: OSError: unreachable, from ConnectionRefusedError: refused"


def test_a_failure_without_a_cause_is_its_sentence_alone(
    restored: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """`exc_info=None` means that there is no cause."""
    logs.configure(production=False)
    JobLog("job-1").warning("failed: %s", FetchError("no"), exc_info=None)

    assert capsys.readouterr().out == "WARNING| job-1 | failed: no\n"


@pytest.mark.parametrize(
    ("level", "name"),
    [
        (logging.DEBUG, "DEBUG"),
        (logging.INFO, "INFO"),
        (logging.WARNING, "WARN"),
        (logging.ERROR, "ERROR"),
        (logging.CRITICAL, "ERROR"),
    ],
)
def test_in_production_a_line_is_the_sdks_json_with_the_sdks_level_names(
    level: int, name: str
) -> None:
    """Runpod's console groups by `requestId`; a line break cannot forge a second line."""
    text = RunpodFormatter().format(record("one\ntwo", level, job_id="job-1"))

    assert "\n" not in text
    assert json.loads(text) == {"requestId": "job-1", "message": "one\ntwo", "level": name}


def test_a_line_of_no_job_has_no_request_id() -> None:
    """Boot and libraries write such lines."""
    assert json.loads(RunpodFormatter().format(record("ready")))["requestId"] is None


def test_our_lines_are_logged_from_info_and_those_of_libraries_from_warning(
    restored: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """At INFO httpx logs every URL. All lines go to standard output, as the SDK's do."""
    logs.configure(production=False)
    JobLog("job-1").info("done")
    logging.getLogger("kontext").debug("detail")
    logging.getLogger("httpx").info("GET https://h.example/p?token=t")
    logging.getLogger("urllib3").warning("retrying")

    assert capsys.readouterr().out.splitlines() == [
        "INFO   | job-1 | done",
        "WARNING| worker | retrying",
    ]


@pytest.mark.parametrize(
    ("given", "set_for_the_sdk"),
    [
        ({}, "INFO"),
        ({"RUNPOD_LOG_LEVEL": "WARNING"}, "WARN"),
        ({"RUNPOD_LOG_LEVEL": "critical"}, "ERROR"),
        ({"RUNPOD_LOG_LEVEL": "debug"}, "DEBUG"),
        ({"RUNPOD_DEBUG_LEVEL": "error"}, "ERROR"),
        ({"RUNPOD_LOG_LEVEL": "", "RUNPOD_DEBUG_LEVEL": "WARN"}, "WARN"),
    ],
)
def test_the_sdk_gets_a_level_that_it_knows(
    restored: None, given: dict[str, str], set_for_the_sdk: str
) -> None:
    """Python's level names crash it, and at its default level it prints prompts and links."""
    for name in ("RUNPOD_LOG_LEVEL", "RUNPOD_DEBUG_LEVEL"):
        os.environ.pop(name, None)
    os.environ.update(given)
    logs.configure(production=True)

    assert os.environ["RUNPOD_LOG_LEVEL"] == set_for_the_sdk


def test_a_level_that_does_not_exist_is_refused_by_name(
    restored: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the SDK would end the process with a traceback when imported."""
    monkeypatch.setenv("RUNPOD_LOG_LEVEL", "loud")

    with pytest.raises(SettingsError, match=r"^RUNPOD_LOG_LEVEL must be one of NOTSET, TRACE, "):
        logs.configure(production=True)
