"""The server: routes, workers and housekeeping under one roof, started and stopped in order."""

import asyncio
import contextlib
import logging
import secrets
import signal
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from kontext.local import GRACE_SECONDS
from kontext.local.app import anybody, application, only
from kontext.local.client_api import ClientApi
from kontext.local.queue import Queue
from kontext.local.store import Store
from kontext.local.webhooks import Webhooks
from kontext.local.worker_api import WorkerApi
from kontext.local.worker_process import HUNG_SECONDS, WorkerProcess, control_plane

log = logging.getLogger("kontext")


@dataclass(frozen=True)
class Options:
    """What a server is made of.

    Attributes:
        database: File of the queue.
        workers: The environment of each worker; as many workers as entries.
        handler: The workers' program.
        host: Address to bind.
        port: Port to bind; 0 takes a free one.
        api_key: What clients must send; `None` admits all.
        hung_seconds: Silence after which a worker is replaced.
        grace_seconds: What a worker gets to finish its jobs when it is asked to end; what it has
            not finished then is queued again.
        webhook_pause: Seconds between two tries at a webhook.
        wrap: Put around the application, for who watches what passes.
    """

    database: Path
    workers: Sequence[Mapping[str, str]]
    handler: Path = Path("handler.py")
    host: str = "127.0.0.1"
    port: int = 0
    api_key: str | None = None
    hung_seconds: float = HUNG_SECONDS
    grace_seconds: float = GRACE_SECONDS
    webhook_pause: float = 10.0
    wrap: Callable[[ASGIApp], ASGIApp] = lambda application: application


class Server:
    """One running server.

    Args:
        options: See there.

    Attributes:
        url: Where it listens.
        queue: Its jobs.
        workers: Its workers.
        control_plane: The environment that points a worker of any origin at it.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._worker_key = secrets.token_hex(16)
        self._socket = socket.create_server((options.host, options.port))
        # uvicorn sends head and body apart: without it each answer waits 40 ms for a delayed ACK.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        self._store = Store(options.database)
        self.queue = Queue(self._store)
        self.url = f"http://{options.host}:{self._socket.getsockname()[1]}"
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
        webhooks = Webhooks(self.queue, self._options.webhook_pause)
        with contextlib.closing(self._store):
            async with asyncio.TaskGroup() as tasks:  # what fails ends the rest
                chores = [tasks.create_task(do) for do in (self.queue.tend(), webhooks.deliver())]
                await self._serve(stop, tasks)
                for chore in chores:
                    chore.cancel()

    async def _serve(self, stop: asyncio.Event, tasks: asyncio.TaskGroup) -> None:
        """End the workers before the routes: that is where they post their results."""
        web = _Web(uvicorn.Config(self._app(), log_level="warning", timeout_graceful_shutdown=2))
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

    def _app(self) -> ASGIApp:
        key = self._options.api_key
        clients = ClientApi(self.queue, self._ready_workers)
        workers = WorkerApi(self.queue, self._seen, self._replace)
        app = application(
            clients.routes(only(key) if key else anybody), workers.routes(only(self._worker_key))
        )
        return self._options.wrap(app)

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


def stop_on_signals() -> asyncio.Event:
    """Return an event that Ctrl-C and SIGTERM set; a second one ends the process at once."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def ask() -> None:
        log.info("the workers finish their jobs; a second Ctrl-C ends all at once")
        stop.set()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)  # without Python's traceback

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ask)
    return stop


class _Web(uvicorn.Server):
    """uvicorn, but for signals: the workers must end while it still serves them."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them to `stop_on_signals`."""
        yield
