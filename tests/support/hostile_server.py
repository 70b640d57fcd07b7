"""A web server that misbehaves on purpose, and a name server with addresses of the test's choice.

The web server uses raw sockets, since no server library would send such responses. Everything is on
loopback.
"""

import asyncio
import socket
import ssl
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Self

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]
Row = tuple[int, int, int, str, tuple[Any, ...]]

FOREVER = 3600
"""Seconds; a response that lasts so long is cut off when its server closes."""


def sends(*parts: bytes) -> Answer:
    """Send these bytes and hang up."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
        await writer.drain()

    return answer


def repeats(head: bytes, part: bytes, pause: float = 0) -> Answer:
    """Send `head`, then `part` again and again, and never hang up."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause)

    return answer


def stalls(part: bytes = b"") -> Answer:
    """Send `part` and then nothing, and never hang up."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(part)
        await asyncio.sleep(FOREVER)

    return answer


def after(seconds: float, answer: Answer) -> Answer:
    """Wait before answering."""

    async def late(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(seconds)
        await answer(writer)

    return late


def head(status: str = "200 OK", **fields: object) -> bytes:
    """Return the status line and fields of an answer; `content_length` means Content-Length."""
    lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items()]
    return f"HTTP/1.1 {status}\r\n{''.join(lines)}\r\n".encode()


def body(content: bytes, status: str = "200 OK", **fields: object) -> Answer:
    """Send a well-formed response."""
    return sends(head(status, content_length=len(content), connection="close", **fields), content)


def redirect(location: str, content: bytes = b"") -> Answer:
    """Redirect the client."""
    return body(content, "302 Found", location=location)


class HostileServer:
    """Listens on loopback and sends a given response for each path.

    Attributes:
        answers: The response for each path; others get a 404.
        connections: The number of accepted connections.
        requests: The head of every request that was read.
    """

    def __init__(self, answers: Mapping[str, Answer], tls: ssl.SSLContext | None = None) -> None:
        self.answers = dict(answers)
        self.connections = 0
        self.requests: list[str] = []
        self._tls = tls
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def url(self, path: str, host: str = "public.example", scheme: str = "http") -> str:
        """Return the URL of a path, with a path and query that no error may repeat."""
        return f"{scheme}://{host}:{self.port}{path}?token=hunter2"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            request = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.requests.append(request)
            path = request.split()[1].partition("?")[0]
            await self.answers.get(path, body(b"", "404 Not Found"))(writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client closed the connection
        finally:
            self._tasks.discard(task)
            writer.close()


class Names:
    """A replacement for `socket.getaddrinfo` with fixed addresses.

    Args:
        book: The addresses of each name, or several lists of them, one for each lookup in turn.

    Attributes:
        lookups: The names that were looked up, in order.
    """

    def __init__(self, book: Mapping[str, list[str] | list[list[str]]]) -> None:
        self._book = book
        self.lookups: list[str] = []

    def __call__(self, host: str, port: int, *rest: Any) -> Iterable[Row]:
        """Answer like `socket.getaddrinfo`, which still reads literals, hex and short forms."""
        self.lookups.append(host)
        entry = self._book.get(host.removesuffix("."))
        if entry is None:
            return self._literal(host, port)
        turn = min(self.lookups.count(host), len(entry)) - 1
        addresses = entry[turn] if isinstance(entry[turn], list) else entry
        return [row for address in addresses for row in self._literal(str(address), port)]

    @staticmethod
    def _literal(host: str, port: int) -> Iterable[Row]:
        return socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM, 0, socket.AI_NUMERICHOST)


class ConnectionLog:
    """Records every address that this process connects to, by an audit hook of the interpreter.

    Attributes:
        addresses: Host and port of every internet connection attempted since `clear`.
    """

    def __init__(self) -> None:
        self.addresses: list[tuple[str, int]] = []
        sys.addaudithook(self._hear)  # stays for the life of the process

    def clear(self) -> None:
        """Forget all addresses."""
        self.addresses.clear()

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "socket.connect" and isinstance(arguments[1], tuple):
            self.addresses.append(arguments[1][:2])
