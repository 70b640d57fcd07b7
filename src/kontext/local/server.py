"""The server: routes, workers and housekeeping under one roof, started and stopped in order."""

import asyncio
import contextlib
import secrets
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from starlette.types import ASGIApp

from kontext.errors import BootError
from kontext.local import GRACE_SECONDS, QUEUE_LIMIT, access
from kontext.local.app import application, require_api_key
from kontext.local.client_api import ClientApi
from kontext.local.connection import MOST_CONNECTIONS, READ_SECONDS, limited_connection
from kontext.local.queue import Queue
from kontext.local.store import Store
from kontext.local.web import Web
from kontext.local.webhooks import Webhooks, webhook_policy
from kontext.local.worker_api import WorkerApi
from kontext.local.worker_process import HUNG_SECONDS, WorkerProcess, control_plane
from kontext.settings import Settings


@dataclass(frozen=True)
class Options:
    """What a server is made of.

    Attributes:
        database: File of the queue.
        workers: The environment of each worker; as many workers as entries.
        handler: The workers' program.
        host: Address to bind.
        port: Port to bind; 0 takes a free one.
        api_key: What clients must send; `None` admits the programs of this machine.
        allowed_hosts: Other names of this machine by which it may then be called.
        allowed_origins: Those of the web pages that may then call it, as `http://localhost:3000`.
        hung_seconds: Silence after which a worker is replaced.
        grace_seconds: What a worker gets to finish its jobs when it is asked to end; what it has
            not finished then is queued again.
        webhook_pause: Seconds between two tries at a webhook.
        most_waiting: Jobs that may wait; one more is refused.
        read_seconds: In which a whole request must arrive.
        most_connections: So many at once; for one more, the longest without a request is closed.
        wrap: Put around the application, for who watches what passes.
    """

    database: Path
    workers: Sequence[Mapping[str, str]]
    handler: Path = Path("handler.py")
    host: str = "127.0.0.1"
    port: int = 0
    api_key: str | None = None
    allowed_hosts: Sequence[str] = ()
    allowed_origins: Sequence[str] = ()
    hung_seconds: float = HUNG_SECONDS
    grace_seconds: float = GRACE_SECONDS
    webhook_pause: float = 10.0
    most_waiting: int = QUEUE_LIMIT
    read_seconds: float = READ_SECONDS
    most_connections: int = MOST_CONNECTIONS
    wrap: Callable[[ASGIApp], ASGIApp] = lambda application: application


class Server:
    """One running server.

    Args:
        options: See there.

    Raises:
        BootError: It would be open to other machines without a key, or a name, an origin or a
            setting is none.
        OSError: Its address cannot be bound.
        QueueUnavailable: Its database cannot be opened.

    Attributes:
        url: Where it listens.
        queue: Its jobs.
        workers: Its workers.
        control_plane: The environment that points a worker of any origin at it.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        if not options.api_key and not access.is_loopback(options.host):
            raise BootError(
                f"--host {options.host!r} opens the server to other machines, so clients need a "
                "key; set KONTEXT_API_KEY or name a file by --api-key-file"
            )
        self._webhook_policy = webhook_policy(Settings.load())
        self._worker_key = secrets.token_hex(16)
        ipv6 = ":" in options.host
        family = socket.AF_INET6 if ipv6 else socket.AF_INET
        self._socket = socket.create_server((options.host, options.port), family=family)
        # uvicorn sends head and body apart: without it each answer waits 40 ms for a delayed ACK.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        self._store = Store(options.database)
        self.queue = Queue(self._store)
        self._app = options.wrap(self._application())
        name = f"[{options.host}]" if ipv6 else options.host
        self.url = f"http://{name}:{self._socket.getsockname()[1]}"
        self.control_plane = control_plane(
            f"{self.url}/v2/local", self._worker_key, options.hung_seconds
        )
        self.workers = [
            WorkerProcess(
                options.handler,
                {**environment, **self.control_plane},
                self.queue,
                options.hung_seconds,
                options.grace_seconds,
            )
            for environment in options.workers
        ]

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set; then let the workers finish, and end."""
        webhooks = Webhooks(self.queue, self._webhook_policy, self._options.webhook_pause)
        with contextlib.closing(self._store):
            async with asyncio.TaskGroup() as tasks:  # what fails ends the rest
                chores = [tasks.create_task(do) for do in (self.queue.tend(), webhooks.deliver())]
                await self._serve(stop, tasks)
                for chore in chores:
                    chore.cancel()

    async def _serve(self, stop: asyncio.Event, tasks: asyncio.TaskGroup) -> None:
        """End the workers before the routes: that is where they post their results."""
        connection = limited_connection(self._options.read_seconds, self._options.most_connections)
        web = Web(self._app, connection)
        serving = tasks.create_task(web.serve(sockets=[self._socket]))
        serving.add_done_callback(lambda _: stop.set())
        lives = [tasks.create_task(worker.run()) for worker in self.workers]
        await stop.wait()
        for worker in self.workers:
            worker.end()
        await asyncio.gather(*lives)
        self.queue.signals.close()  # or clients that wait would be cut off without an answer
        web.should_exit = True
        await serving

    def _application(self) -> ASGIApp:
        """Behave as Runpod does when clients need a key; without one, trust this machine alone."""
        key, origins = self._options.api_key, self._options.allowed_origins
        clients = ClientApi(self.queue, self._ready_workers, self._options.most_waiting)
        workers = WorkerApi(self.queue, self._seen, self._replace).routes(
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
        return {worker.id for worker in self.workers if worker.ready}

    def _seen(self, worker_id: str, fit: bool) -> None:
        for worker in self.workers:
            if worker.id == worker_id:
                worker.seen(fit)

    def _replace(self, worker_id: str) -> None:
        for worker in self.workers:
            if worker.id == worker_id:
                worker.replace()
