"""URL or data URL -> upright sRGB image, with caps on time, bytes and addresses.

Knows which URLs may be fetched and how much of them; `ssrfguard` resolves, checks and pins every
address, at every redirect, so that a private one is never dialled. What bytes make an acceptable
image is `kontext.images.decode`'s business.
"""

import asyncio
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass

import httpx
from PIL import Image
from ssrfguard import (
    BlockedAddressError,
    BlockedURLError,
    Policy,
    Resolver,
    SSRFGuardError,
)
from ssrfguard.httpx import AsyncClient

from kontext import __version__
from kontext.address_policy import unknown_as_private
from kontext.errors import FetchError
from kontext.images import data_url
from kontext.images.data_url import MEGABYTE
from kontext.images.decode_pool import MOST_AT_ONCE, decode_in_process

HEADERS = {
    "User-Agent": f"kontext/{__version__} (FLUX.1 Kontext worker; fetches the image to edit)",
    "Accept-Encoding": "identity",
}


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """What an image's transfer may cost: seconds for all of it, bytes of its body."""

    seconds: float = 15
    most_bytes: int = 20 * MEGABYTE


class ImageFetcher:
    """Fetches and decodes input images; one for the life of the worker.

    Args:
        policy: Which addresses may be dialled.
        limits: What a transfer may cost.
        resolver: A stand-in for `socket.getaddrinfo`.
        decode: What makes an image of a file, and perhaps a smaller one.
    """

    def __init__(
        self,
        policy: Policy,
        limits: FetchLimits = FetchLimits(),
        resolver: Resolver | None = None,
        decode: Callable[[bytes, int | None], Image.Image] = decode_in_process,
    ) -> None:
        self._policy = policy
        self._limits = limits
        self._resolver = unknown_as_private(resolver or socket.getaddrinfo)
        self._decode = decode
        # Of its own: asyncio's few threads would all wait for slow images.
        self._threads = ThreadPoolExecutor(MOST_AT_ONCE, "decode")
        self._tls = httpx.create_ssl_context(trust_env=False)

    async def fetch(self, url: str, pixels: int | None = None) -> Image.Image:
        """Return the image behind an http(s) or data URL: RGB, 8 bit, sRGB, upright.

        Args:
            url: Where it is, or the image itself.
            pixels: How many it will be scaled to, if known; a much larger one may come smaller.

        Raises:
            FetchError: The URL is not allowed, or its body could not be had within the limits.
            DecodeError: Its body is not an acceptable image.
        """
        content = await self.content(url)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._decode, content, pixels)

    async def content(self, url: str) -> bytes:
        """Return what is behind an http(s) or data URL.

        Raises:
            FetchError: The URL is not allowed, or its body could not be had within the limits.
        """
        if url[:5].lower() == "data:":
            return await asyncio.to_thread(data_url.decode, url, self._limits.most_bytes)
        return await self._fetch(url)

    async def _fetch(self, url: str) -> bytes:
        try:
            host = httpx.URL(url).host[:80] or "it"
        except (httpx.InvalidURL, ValueError):
            raise FetchError("Invalid image URL: it is malformed") from None
        try:
            # Only a deadline around connect, redirects, headers and body stops a header drip.
            async with asyncio.timeout(self._limits.seconds):
                return await self._download(url)
        except (_Refused, httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            raise FetchError(f"Invalid image URL: {host} {self._reason(error)}") from error

    async def _download(self, url: str) -> bytes:
        async with (
            self._client() as client,
            aclosing(await self._answer(client, url)) as response,
        ):
            self._check_head(response)
            return await self._body(response)

    def _client(self) -> AsyncClient:
        attempts = self._policy.max_connection_attempts
        return AsyncClient(
            policy=self._policy,
            resolver=self._resolver,
            verify=self._tls,
            trust_env=False,  # a proxy would resolve names itself, out of the policy's sight
            headers=HEADERS,
            # Leaves time for a name's next address when the first is dead.
            timeout=httpx.Timeout(None, connect=self._limits.seconds / attempts),
        )

    async def _answer(self, client: AsyncClient, url: str) -> httpx.Response:
        """Follow redirects here: httpx would read and unpack the whole body of each."""
        request = client.build_request("GET", url)
        for hop in range(self._policy.max_redirects + 1):
            try:
                response = await client.send(request, stream=True)
            except SSRFGuardError as refused:
                where = "redirects to a URL that " if hop else ""
                raise _Refused(f"{where}{self._rule(refused)}") from refused
            if response.next_request is None:
                return response
            await response.aclose()
            request = response.next_request
        raise _Refused(f"redirects more than {self._policy.max_redirects} times")

    def _check_head(self, response: httpx.Response) -> None:
        if response.status_code != httpx.codes.OK:
            raise _Refused(f"answered {response.status_code}")
        # An encoded body could expand without bound; we asked for none.
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise _Refused("sent a compressed answer, which was not asked for")
        if int(response.headers.get("Content-Length", 0)) > self._limits.most_bytes:
            raise _Refused(f"sent {self._too_much}")

    async def _body(self, response: httpx.Response) -> bytes:
        content = bytearray()
        async for chunk in response.aiter_raw():
            content += chunk
            if len(content) > self._limits.most_bytes:
                raise _Refused(f"sent {self._too_much}")
        return bytes(content)

    @property
    def _too_much(self) -> str:
        return f"more than {self._limits.most_bytes / MEGABYTE:g} MB"

    def _rule(self, refused: SSRFGuardError) -> str:
        """Say which rule refused, but not which address a name has: that is ours to know."""
        match refused:
            case BlockedAddressError() | BlockedURLError(__cause__=BlockedAddressError()):
                return "is not a public address"
        ports = " or ".join(map(str, sorted(self._policy.allowed_ports)))
        return (
            f"is refused: only http and https to a public host on port {ports}, "
            f"without credentials, up to {self._policy.max_url_length} characters"
        )

    def _reason(self, error: Exception) -> str:
        match error:
            case _Refused():
                return str(error)
            case TimeoutError():
                return f"did not deliver the image within {self._limits.seconds:g} seconds"
            case httpx.ConnectError() | httpx.ConnectTimeout() | OSError():
                return "could not be reached"
            case _:
                return "broke off its answer or sent an invalid one"


class _Refused(Exception):
    """An answer that we will not read, and why."""
