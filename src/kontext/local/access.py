"""Protects a server without an API key: programs on this machine may use it, web pages may not.

Any web page in a browser can send requests to loopback. If it makes its own host name resolve to
127.0.0.1 (DNS rebinding), it can also read the answers. It cannot set the headers `Host`, `Origin`
and `Sec-Fetch-Site`, and cannot send `application/json` without a preflight request. With an API
key, which no page knows, none of this is needed.

Knows request headers; does not know routes.
"""

import re
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import ip_address

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from kontext.errors import BootError
from kontext.local.app import ApiError

IPV6 = 6
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[^\s:/@\[\]]+)(:[0-9]+)?", re.IGNORECASE)
ORIGIN = re.compile(r"https?://(\[[0-9a-f:.]+\]|[^\s:/@\[\]*]+)(:[0-9]+)?", re.IGNORECASE)


class LocalAccess:
    """ASGI middleware that answers 403 to requests of web pages and to unknown host names.

    Args:
        app: The application to protect.
        hosts: Names that `Host` may have besides those of loopback.
        origins: Origins of the web pages that may send requests.

    Raises:
        BootError: A host or an origin is malformed.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str], origins: Iterable[str]) -> None:
        self._app = app
        self._hosts = {*LOOPBACK_NAMES, *map(_parsed_host, hosts)}
        self._origins = set(map(_parsed_origin, origins))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with 403."""
        reason = self._refusal(Headers(scope=scope)) if scope["type"] == "http" else None
        answer = JSONResponse({"error": reason}, 403) if reason else self._app
        await answer(scope, receive, send)

    def _refusal(self, headers: Headers) -> str | None:
        host, origin = headers.get("Host", "").lower(), headers.get("Origin", "").lower()
        found = HOST.fullmatch(host)
        if not found or found["name"] not in self._hosts:
            return (
                f"Host must be {', '.join(sorted(self._hosts))}, got {host[:80]!r}; without an API "
                "key the server answers to names of this machine and of --allow-host only"
            )
        same_site = origin.partition("://")[2] == host
        if origin and not same_site and origin not in self._origins:
            return (
                f"Origin must be allowed, got {origin[:80]!r}; without an API key the server "
                "answers to the web pages of --allow-origin only"
            )
        # Browsers request images and links without `Origin`.
        if not origin and headers.get("Sec-Fetch-Site", "none") not in {"none", "same-origin"}:
            return "without an API key the server answers to no link or image of a web page"
        return None


async def require_json(request: Request) -> None:
    """Accept a body only if it is declared as JSON: other types need no preflight request.

    Raises:
        ApiError: The body has another content type.
    """
    headers = request.headers
    kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    has_body = "Transfer-Encoding" in headers or headers.get("Content-Length", "0") != "0"
    if has_body and kind != "application/json":
        raise ApiError(415, f"Content-Type must be application/json, got {kind[:80]!r}")


def is_loopback(host: str) -> bool:
    """Tell whether a socket bound to `host` can be reached from this machine only."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _parsed_host(name: str) -> str:
    written = name.lower()
    with suppress(ValueError):
        written = f"[{written}]" if ip_address(name).version == IPV6 else written
    found = HOST.fullmatch(written)
    if not found or found["name"] != written:
        raise BootError(f"--allow-host must be a name such as my-machine.local, got {name!r}")
    return written


def _parsed_origin(origin: str) -> str:
    if not ORIGIN.fullmatch(origin):
        raise BootError(f"--allow-origin must be such as http://localhost:3000, got {origin!r}")
    return origin.lower()
