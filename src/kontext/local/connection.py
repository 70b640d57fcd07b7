"""A client's connection: uvicorn's, with a limit on how long and how many may stay half-open."""

import asyncio
import logging
import resource

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

READ_SECONDS = 60.0
"""How long a whole request may take to arrive: 20 MiB at 3 Mbit/s. A choice."""

MOST_CONNECTIONS = min(1000, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
"""Half of the files that the process may have open, for the database needs some, and so on."""

BACKLOG = max(1, MOST_CONNECTIONS // 8)
"""Connections that asyncio accepts in one go. Several times as many are open before the first can
make room; were no file left then, asyncio would retry without a pause and block the server."""

log = logging.getLogger("kontext")


class Connection(HttpToolsProtocol):
    """One connection, which must send its requests in time.

    Attributes:
        read_seconds: From its opening, or the answer to its last request, until the next request
            has wholly arrived; then it is closed.
        most: Connections at once; for one more, the one that has waited longest for a request is
            closed.
    """

    read_seconds = READ_SECONDS
    most = MOST_CONNECTIONS
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for its first request."""
        super().connection_made(transport)
        self._await_request()
        if len(self.connections) > self.most:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """End its deadline with it."""
        self._stop_waiting()
        super().connection_lost(exc)

    def on_message_complete(self) -> None:
        """Grant a request that has arrived all the time that its answer takes."""
        super().on_message_complete()
        if not self.cycle.response_complete:  # else this is the rest of what was refused
            self._stop_waiting()

    def on_response_complete(self) -> None:
        """Begin to wait for the next request."""
        super().on_response_complete()
        self._await_request()

    def _await_request(self) -> None:
        self._stop_waiting()
        self._deadline = self.loop.call_later(self.read_seconds, self._give_up)

    def _stop_waiting(self) -> None:
        if self._deadline:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        log.debug("a connection is closed: it sent no whole request")
        self._stop_waiting()  # it counts until the loop has closed it, but makes room only once
        self.transport.abort()

    def _make_room(self) -> None:
        waiting = [
            (other._deadline.when(), id(other), other)
            for other in self.connections
            if isinstance(other, Connection) and other._deadline
        ]
        min(waiting)[2]._give_up()


def limited_connection(read_seconds: float, most: int) -> type[Connection]:
    """Return the protocol with other limits."""

    class Limited(Connection):
        pass

    Limited.read_seconds, Limited.most = read_seconds, most
    return Limited
