"""uvicorn, configured for this server."""

import contextlib
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from kontext.local.connection import BACKLOG, Connection


class HttpServer(uvicorn.Server):
    """uvicorn without its signal handlers: it must serve the workers until they have ended.

    Args:
        app: The application to serve.
        connection: The class that handles each connection.
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
        """Leave the signals to `shutdown.stop_on_signals`."""
        yield
