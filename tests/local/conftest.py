"""Fixtures: a running server without worker processes, its client and worker, and a store."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from kontext.local.server import Options, Server
from kontext.local.store import Store
from tests.local.stored_jobs import Clock
from tests.local.worker import Worker

Serve = Callable[..., AbstractAsyncContextManager[Server]]


@asynccontextmanager
async def running(database: Path, **options: Any) -> AsyncIterator[Server]:
    """Run a server during the block."""
    server = Server(Options(database, workers=[], **options))
    stop = asyncio.Event()
    serving = asyncio.create_task(server.run(stop))
    try:
        yield server
    finally:
        stop.set()
        await serving


def client_of(server: Server, **options: Any) -> httpx.AsyncClient:
    """Return a client of an endpoint of the server."""
    client = httpx.AsyncClient(base_url=f"{server.url}/v2/any-endpoint", timeout=30, **options)
    client.headers.setdefault("Content-Type", "application/json")
    return client


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    """A context manager that runs a server; each one opens the queue of the one before."""
    return partial(running, tmp_path / "queue.sqlite")


@pytest_asyncio.fixture(loop_scope="module")
async def server(serve: Serve) -> AsyncIterator[Server]:
    """A server without an API key."""
    async with serve(webhook_pause_seconds=0.05) as server:
        yield server


@pytest_asyncio.fixture(loop_scope="module")
async def client(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the server."""
    async with client_of(server) as client:
        yield client


@pytest.fixture
def worker(server: Server) -> Worker:
    """A worker of the server, called `worker-1`."""
    return Worker(server)


@pytest.fixture
def clock() -> Clock:
    """A clock that stands at noon."""
    return Clock()


@pytest.fixture
def queue_file(tmp_path: Path) -> Path:
    """The file of the queue."""
    return tmp_path / "queue.sqlite"


@pytest.fixture
def store(queue_file: Path, clock: Clock) -> Iterator[Store]:
    """An empty queue."""
    store = Store(queue_file, clock)
    yield store
    store.close()
