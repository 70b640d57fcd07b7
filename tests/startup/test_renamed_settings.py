"""The log lines about settings that are set by their old names."""

import logging
from pathlib import Path

import pytest

from kontext.settings import Settings
from kontext.startup import renamed_settings
from tests.local.served import until
from tests.support.endpoint import start_worker

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def no_old_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the old names that this machine may set."""
    for old in Settings.renamed():
        monkeypatch.delenv(old, raising=False)


@pytest.mark.parametrize(("old", "new"), Settings.renamed().items())
def test_an_old_name_is_logged_with_its_new_name(
    old: str, new: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The deployer reads what to change before the old name is dropped."""
    monkeypatch.setenv(old, "7")
    renamed_settings.log_old_names()

    assert caplog.messages == [f"{old} is now {new}; the old name will be dropped"]
    assert caplog.records[0].levelno == logging.WARNING


def test_new_names_and_empty_variables_are_not_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An empty variable counts as not set, as everywhere in the settings."""
    for old, new in Settings.renamed().items():
        monkeypatch.setenv(old, "")
        monkeypatch.setenv(new, "7")
    renamed_settings.log_old_names()

    assert not caplog.messages


async def test_a_worker_logs_it_when_it_boots(tmp_path: Path) -> None:
    """The line comes before the worker connects to anything."""
    environment = {"TAKE_AHEAD_SECONDS": "2", "RUNPOD_ENDPOINT_ID": "endpoint-1"}
    line = "TAKE_AHEAD_SECONDS is now PREFETCH_SECONDS; the old name will be dropped"
    async with start_worker(ROOT / "handler.py", environment, tmp_path / "log") as worker:
        await until(lambda: line in worker.log)
