"""Fetches and decodes the input image of a job, with limits on time, bytes and addresses.

Knows how to download a URL that a caller chose; `ssrfguard` resolves, checks and pins every
address, at every redirect, so that the worker never connects to a private one. Does not know what
an acceptable image is: `kontext.images.decode` does.
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
from kontext.address_policy import refuse_unknown_names
from kontext.errors import FetchError
from kontext.images import data_url
from kontext.images.data_url import MEGABYTE
from kontext.images.decode_pool import MAX_PROCESSES, decode_in_process

HEADERS = {
    "User-Agent": f"kontext/{__version__} (FLUX.1 Kontext worker; fetches the image to edit)",
    "Accept-Encoding": "identity",
}


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """Limits of one transfer: its whole time in seconds, and the bytes of its body."""

    seconds: float = 15
    max_bytes: int = 20 * MEGABYTE


class ImageFetcher:
    """Fetches and decodes input images. A worker has one.

    Args:
        policy: The addresses that it may connect to.
        limits: The limits of one transfer.
        resolver: A replacement for `socket.getaddrinfo`.
        decode: A function that takes a file and the number of pixels that are needed, if known.
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
        self._resolver = refuse_unknown_names(resolver or socket.getaddrinfo)
        self._decode = decode
        # Separate, because slow images would occupy asyncio's few threads.
        self._threads = ThreadPoolExecutor(MAX_PROCESSES, "decode")
        self._tls = httpx.create_ssl_context(trust_env=False)

    async def fetch(self, url: str, pixels: int | None = None) -> Image.Image:
        """Return the image behind an http(s) or data URL: RGB, 8 bit, sRGB, upright.

        Args:
            url: An http(s) URL, or a data URL that holds the image.
            pixels: The number of pixels that the image will be scaled to, if known; a much larger
                image may be returned at a reduced size.

        Raises:
            FetchError: The URL is not allowed, or could not be fetched within the limits.
            DecodeError: The content is not an acceptable image.
        """
        content = await self.content(url)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._decode, content, pixels)

    async def content(self, url: str) -> bytes:
        """Return the content of an http(s) or data URL.

        Raises:
            FetchError: The URL is not allowed, or could not be fetched within the limits.
        """
        if url[:5].lower() == "data:":
            return await asyncio.to_thread(data_url.decode, url, self._limits.max_bytes)
        return await self._fetch(url)

    async def _fetch(self, url: str) -> bytes:
        try:
            host = httpx.URL(url).host[:80] or "it"
        except (httpx.InvalidURL, ValueError):
            raise FetchError("Invalid image URL: it is malformed") from None
        try:
            # Only one deadline for everything stops a server that sends headers forever.
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
            trust_env=False,  # a proxy would resolve names without the policy
            headers=HEADERS,
            # Leaves time for a host's next address when the first does not answer.
            timeout=httpx.Timeout(None, connect=self._limits.seconds / attempts),
        )

    async def _answer(self, client: AsyncClient, url: str) -> httpx.Response:
        """Send the request and follow redirects; httpx would read and unpack each one's body."""
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
        # A compressed body could expand without bound; the request asked for none.
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise _Refused("sent a compressed answer, which was not asked for")
        if int(response.headers.get("Content-Length", 0)) > self._limits.max_bytes:
            raise _Refused(f"sent {self._too_much}")

    async def _body(self, response: httpx.Response) -> bytes:
        content = bytearray()
        async for chunk in response.aiter_raw():
            content += chunk
            if len(content) > self._limits.max_bytes:
                raise _Refused(f"sent {self._too_much}")
        return bytes(content)

    @property
    def _too_much(self) -> str:
        return f"more than {self._limits.max_bytes / MEGABYTE:g} MB"

    def _rule(self, refused: SSRFGuardError) -> str:
        """Name the rule that refused the URL, but never the address that its host has."""
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
    """The reason why a response is not read."""
