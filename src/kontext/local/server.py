"""The server: starts the routes, the workers and the housekeeping, and shuts them down in order.

Knows every other module of this package but the command line.
"""

import asyncio
import contextlib
import secrets
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from starlette.types import ASGIApp

from kontext.errors import BootError
from kontext.local import MAX_WAITING_JOBS, access
from kontext.local.app import application, require_api_key
from kontext.local.client_api import ClientApi
from kontext.local.connection import (
    MAX_CONNECTIONS,
    READ_TIMEOUT_SECONDS,
    connection_with_limits,
)
from kontext.local.http_server import HttpServer
from kontext.local.queue import Queue
from kontext.local.shutdown import GRACE_SECONDS
from kontext.local.store import Store
from kontext.local.webhooks import PAUSE_SECONDS, Webhooks, webhook_policy
from kontext.local.worker_api import WorkerApi
from kontext.local.worker_environment import control_plane
from kontext.local.worker_supervisor import HUNG_TIMEOUT_SECONDS, WorkerSupervisor
from kontext.settings import Settings


@dataclass(frozen=True)
class Options:
    """The options of a server.

    Attributes:
        database: Path of the queue's file.
        workers: The environment of each worker; one worker is started for each entry.
        handler: Path of the workers' program.
        host: Address to bind.
        port: Port to bind; 0 takes a free one.
        api_key: The key that clients must send; `None` admits only programs on this machine.
        allowed_hosts: Without a key: other names of this machine that `Host` may have.
        allowed_origins: Without a key: origins of the web pages that may send requests, such as
            `http://localhost:3000`.
        hung_timeout_seconds: Silence after which a worker is replaced.
        grace_seconds: Time that a worker gets to finish its jobs when it is shut down or replaced;
            jobs that are not finished by then are requeued.
        webhook_pause_seconds: Time between two tries at a webhook.
        max_waiting_jobs: Number of jobs that may wait; a further one is answered with 429.
        read_timeout_seconds: Time in which a whole request must arrive.
        max_connections: Number of connections that may be open; for a further one, the one that
            has waited longest for a request is closed.
        wrap: A function that wraps the application, such as a test that records requests.
    """

    database: Path
    workers: Sequence[Mapping[str, str]]
    handler: Path = Path("handler.py")
    host: str = "127.0.0.1"
    port: int = 0
    api_key: str | None = None
    allowed_hosts: Sequence[str] = ()
    allowed_origins: Sequence[str] = ()
    hung_timeout_seconds: float = HUNG_TIMEOUT_SECONDS
    grace_seconds: float = GRACE_SECONDS
    webhook_pause_seconds: float = PAUSE_SECONDS
    max_waiting_jobs: int = MAX_WAITING_JOBS
    read_timeout_seconds: float = READ_TIMEOUT_SECONDS
    max_connections: int = MAX_CONNECTIONS
    wrap: Callable[[ASGIApp], ASGIApp] = lambda application: application


class Server:
    """Binds the address and opens the queue; `run` then serves.

    Args:
        options: The options of the server.

    Raises:
        BootError: The server would be open to other machines without a key, or a host, an origin
            or a setting is malformed.
        OSError: The address cannot be bound.
        QueueUnavailable: The queue's file cannot be opened.

    Attributes:
        url: Address of the server.
        queue: The queue of the jobs.
        workers: The supervisor of each worker.
        control_plane: Environment variables that make any worker take its jobs from this server.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        _require_key_beyond_loopback(options)
        self._webhook_policy = webhook_policy(Settings.load())
        self._worker_key = secrets.token_hex(16)
        self._socket = _bind(options.host, options.port)
        self._store = Store(options.database)
        self.queue = Queue(self._store)
        self._app = options.wrap(self._application())
        name = f"[{options.host}]" if _is_ipv6(options.host) else options.host
        self.url = f"http://{name}:{self._socket.getsockname()[1]}"
        self.control_plane = control_plane(
            f"{self.url}/v2/local", self._worker_key, options.hung_timeout_seconds
        )
        self.workers = [
            WorkerSupervisor(
                options.handler,
                {**environment, **self.control_plane},
                self.queue,
                options.hung_timeout_seconds,
                options.grace_seconds,
            )
            for environment in options.workers
        ]

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set; then let the workers finish their jobs, and return."""
        webhooks = Webhooks(self.queue, self._webhook_policy, self._options.webhook_pause_seconds)
        with contextlib.closing(self._store):
            async with asyncio.TaskGroup() as tasks:  # if one fails, all end
                chores = [
                    tasks.create_task(chore)
                    for chore in (self.queue.run_housekeeping(), webhooks.deliver())
                ]
                await self._serve(stop, tasks)
                for chore in chores:
                    chore.cancel()

    async def _serve(self, stop: asyncio.Event, tasks: asyncio.TaskGroup) -> None:
        """Serve until `stop`; the routes stop last: the workers post their results there."""
        connection = connection_with_limits(
            self._options.read_timeout_seconds, self._options.max_connections
        )
        http_server = HttpServer(self._app, connection)
        serving = tasks.create_task(http_server.serve(sockets=[self._socket]))
        serving.add_done_callback(lambda _: stop.set())
        supervisors = [tasks.create_task(worker.run()) for worker in self.workers]
        await stop.wait()
        for worker in self.workers:
            worker.stop()
        await asyncio.gather(*supervisors)
        self.queue.notifier.close()  # answers the clients that still wait
        http_server.should_exit = True
        await serving

    def _application(self) -> ASGIApp:
        """Require the API key as Runpod does; without one, admit only programs on this machine."""
        key, origins = self._options.api_key, self._options.allowed_origins
        clients = ClientApi(self.queue, self._ready_workers, self._options.max_waiting_jobs)
        workers = WorkerApi(self.queue, self._record_heartbeat, self._replace).routes(
            require_api_key(self._worker_key)
        )
        if key:
            return application(clients.routes(require_api_key(key)), workers, origins=["*"])
        return access.LocalAccess(
            application(clients.routes(access.require_json), workers, origins=origins),
            hosts=(self._options.host, *self._options.allowed_hosts),
            origins=origins,
        )

    def _ready_workers(self) -> set[str]:
        return {worker.id for worker in self.workers if worker.is_ready}

    def _record_heartbeat(self, worker_id: str, is_healthy: bool) -> None:
        for worker in self.workers:
            if worker.id == worker_id:
                worker.record_heartbeat(is_healthy)

    def _replace(self, worker_id: str) -> None:
        for worker in self.workers:
            if worker.id == worker_id:
                worker.replace()


def _require_key_beyond_loopback(options: Options) -> None:
    if not options.api_key and not access.is_loopback(options.host):
        raise BootError(
            f"--host {options.host!r} opens the server to other machines, so clients need a "
            "key; set KONTEXT_API_KEY or name a file by --api-key-file"
        )


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if _is_ipv6(host) else socket.AF_INET
    bound = socket.create_server((host, port), family=family)
    # uvicorn sends head and body apart: otherwise each answer waits 40 ms for a delayed ACK.
    bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
    return bound


def _is_ipv6(host: str) -> bool:
    return ":" in host
