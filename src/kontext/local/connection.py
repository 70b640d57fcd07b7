"""A client's connection, which is closed if it stays half-open for too long.

It extends uvicorn's protocol. Knows when requests arrive; does not know what they contain.
"""

import asyncio
import logging
import resource

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

READ_TIMEOUT_SECONDS = 60.0
"""How long a whole request may take to arrive, such as 20 MiB at 3 Mbit/s. A choice."""

MAX_CONNECTIONS = min(1000, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
"""At most half of the files that the process may have open; the database needs some too."""

BACKLOG = max(1, MAX_CONNECTIONS // 8)
"""Connections that asyncio accepts at once. Several times as many are open before the first one
can be closed; if no file were left then, asyncio would retry without a pause and block the server.
"""

log = logging.getLogger("kontext")


class Connection(HttpToolsProtocol):
    """One connection; it is closed unless its requests arrive in time.

    Attributes:
        read_timeout_seconds: Time from the connection's start, or from the answer to its last
            request, until the whole next request must have arrived.
        max_connections: Number of connections that may be open; for a further one, the one that
            has waited longest for a request is closed.
    """

    read_timeout_seconds = READ_TIMEOUT_SECONDS
    max_connections = MAX_CONNECTIONS
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timeout of the first request."""
        super().connection_made(transport)
        self._start_timeout()
        if len(self.connections) > self.max_connections:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timeout."""
        self._stop_timeout()
        super().connection_lost(exc)

    def on_message_complete(self) -> None:
        """Stop the timeout while the request is answered."""
        super().on_message_complete()
        if not self.cycle.response_complete:  # else this is the rest of a refused request
            self._stop_timeout()

    def on_response_complete(self) -> None:
        """Start the timeout of the next request."""
        super().on_response_complete()
        self._start_timeout()

    def _start_timeout(self) -> None:
        self._stop_timeout()
        self._deadline = self.loop.call_later(self.read_timeout_seconds, self._close_half_open)

    def _stop_timeout(self) -> None:
        if self._deadline:
            self._deadline.cancel()
            self._deadline = None

    def _close_half_open(self) -> None:
        log.debug("a connection is closed: it sent no whole request")
        self._stop_timeout()  # so that `_make_room` does not choose it again
        self.transport.abort()

    def _make_room(self) -> None:
        waiting = [
            (other._deadline.when(), id(other), other)
            for other in self.connections
            if isinstance(other, Connection) and other._deadline
        ]
        min(waiting)[2]._close_half_open()


def connection_with_limits(read_timeout_seconds: float, max_connections: int) -> type[Connection]:
    """Return a connection class with other limits."""

    class Limited(Connection):
        pass

    Limited.read_timeout_seconds = read_timeout_seconds
    Limited.max_connections = max_connections
    return Limited
