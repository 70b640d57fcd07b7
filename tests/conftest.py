"""Fixtures that several test modules share."""

import os
from collections.abc import Iterator

import pytest

from tests.s3_server import WORKER_ACTIONS, Key, StrictServer, strict_server


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide whatever this machine says about AWS, buckets and Runpod."""
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
