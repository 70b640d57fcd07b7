"""Fixtures that several test modules share, and the count of hostile cases."""

import os
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.support.s3_server import WORKER_ACTIONS, Key, StrictServer, strict_server

HOSTILE = ("fetches", "images", "s3Config values", "fuzzed inputs", "API abuses", "kills")
"""Kinds of hostile cases; a test of one has the mark `hostile` with its kind."""

# Set before torch is imported, for this process and its children: tests run side by side.
os.environ["OMP_NUM_THREADS"] = os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put slow tests first, and note hostile cases where reports carry them.

    Processes take tests from each other's end: slow ones that share a fixture are not torn apart.
    Of a test of Hypothesis each example is a case.
    """
    items.sort(key=lambda item: item.get_closest_marker("timeout") is None)
    for item in items:
        if mark := item.get_closest_marker("hostile"):
            (kind,) = mark.args
            assert kind in HOSTILE, f"{item.nodeid}: no such kind: {kind}"
            function = getattr(item, "function", None)
            settings = getattr(function, "_hypothesis_internal_use_settings", None)
            item.user_properties.append((kind, settings.max_examples if settings else 1))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how many hostile cases of each kind have passed, in whichever process."""
    passed: Counter[str] = Counter()
    for report in terminalreporter.getreports("passed"):
        passed.update({kind: times for kind, times in report.user_properties if kind in HOSTILE})
    if passed.total():
        terminalreporter.section("hostile cases passed")
        for kind in HOSTILE:
            terminalreporter.line(f"{kind}: {passed[kind]}")


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove this machine's settings of AWS, buckets and Runpod from the environment."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "BUCKET_", "RUNPOD_", "PUBLIC_BASE_", "LINK_SECONDS")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StrictServer]:
    """An S3 server that checks signatures, users and policies."""
    with strict_server(tmp_path_factory.mktemp("s3-server")) as server:
        yield server


@pytest.fixture(scope="session")
def worker_key(s3_server: StrictServer) -> Key:
    """The key of a user who may do exactly what a worker needs."""
    return s3_server.new_user(*WORKER_ACTIONS)


@pytest.fixture
def bucket_name(s3_server: StrictServer) -> str:
    """A new, empty bucket on the strict server."""
    return s3_server.new_bucket()


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    """Forget what other tests compiled, which would count against torch's limit of recompiles."""
    import torch  # noqa: PLC0415 - most test modules need no torch
    from torch._dynamo.utils import counters  # noqa: PLC0415

    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()
