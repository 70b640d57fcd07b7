"""How the routes are served, and how the command is asked to end."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from kontext.local.connection import BACKLOG, Connection

log = logging.getLogger("kontext")


class Web(uvicorn.Server):
    """uvicorn, but for signals: the workers must end while it still serves them.

    Args:
        app: What it serves.
        connection: The protocol of its connections.
    """

    def __init__(self, app: ASGIApp, connection: type[Connection]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=connection,
                ws="none",
                backlog=BACKLOG,
                log_level="warning",
                timeout_graceful_shutdown=2,
            )
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them to `stop_on_signals`."""
        yield


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
