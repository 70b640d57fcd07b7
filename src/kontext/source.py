"""URL or data URL -> upright sRGB picture, with caps on time, bytes and addresses.

Knows which URLs may be fetched and how much of them; `ssrfguard` resolves, checks and pins every
address, at every redirect, so that a private one is never dialled. What bytes make an acceptable
picture is `kontext.decode`'s business.
"""

import asyncio
import base64
import binascii
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

import httpx
from PIL import Image
from ssrfguard import (
    BlockedAddressError,
    Policy,
    Resolver,
    SSRFGuardError,
    TooManyRedirectsError,
)
from ssrfguard.httpx import AsyncClient

from kontext import __version__
from kontext.decode import decode
from kontext.errors import FetchError
from kontext.settings import Settings

MEGABYTE = 1_000_000
USER_AGENT = f"kontext/{__version__} (FLUX.1 Kontext worker; fetches the picture to edit)"


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """What a picture's transfer may cost: seconds for all of it, bytes of its body."""

    seconds: float = 15
    most_bytes: int = 20 * MEGABYTE


def address_policy(settings: Settings) -> Policy:
    """Return the policy of every address that a caller names: pictures and `s3Config`."""
    return Policy(
        allowed_networks=settings.fetch_allowed_networks,
        allowed_ports=settings.fetch_allowed_ports,
        max_redirects=5,
    )


class Source:
    """Fetches and decodes input pictures; one for the life of the worker.

    Args:
        policy: Which addresses may be dialled.
        limits: What a transfer may cost.
        resolver: A stand-in for `socket.getaddrinfo`.
    """

    def __init__(
        self,
        policy: Policy,
        limits: FetchLimits = FetchLimits(),
        resolver: Resolver | None = None,
    ) -> None:
        self._policy = policy
        self._limits = limits
        self._resolver = resolver

    async def picture(self, url: str) -> Image.Image:
        """Return the picture behind an http(s) or data URL: RGB, 8 bit, sRGB, upright.

        Raises:
            FetchError: The URL is not allowed, or its body could not be had within the limits.
            DecodeError: Its body is not an acceptable picture.
        """
        content = self._inline(url) if url[:5].lower() == "data:" else await self._fetch(url)
        return await asyncio.to_thread(decode, content)

    def _inline(self, url: str) -> bytes:
        head, comma, body = url[5:].partition(",")
        if not comma:
            raise FetchError("Invalid image data URL: it has no comma")
        # Three bytes of base64 take four characters, a percent-encoded byte at most three.
        if len(body) > self._limits.most_bytes * 3:
            raise FetchError(f"Invalid image data URL: it holds {self._too_much}")
        content = _base64(body) if head.lower().endswith(";base64") else unquote_to_bytes(body)
        if len(content) > self._limits.most_bytes:
            raise FetchError(f"Invalid image data URL: it holds {self._too_much}")
        return content

    async def _fetch(self, url: str) -> bytes:
        try:
            # Only a deadline around connect, headers and body together stops a header drip.
            async with asyncio.timeout(self._limits.seconds):
                return await self._download(url)
        except TimeoutError:
            reason = f"did not deliver the image within {self._limits.seconds:g} seconds"
        except _Refused as refused:
            reason = str(refused)
        except SSRFGuardError as refused:
            reason = self._policy_reason(refused)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            raise FetchError(f"Invalid image URL: {_host(url)} could not be reached") from error
        raise FetchError(f"Invalid image URL: {_host(url)} {reason}")

    async def _download(self, url: str) -> bytes:
        async with (
            # trust_env: a proxy would resolve names itself, out of the policy's sight.
            AsyncClient(policy=self._policy, resolver=self._resolver, trust_env=False) as client,
            client.stream(
                "GET",
                url,
                headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
                follow_redirects=True,
                timeout=self._limits.seconds,
            ) as response,
        ):
            self._check_head(response)
            return await self._body(response)

    def _check_head(self, response: httpx.Response) -> None:
        if response.status_code != httpx.codes.OK:
            raise _Refused(f"answered {response.status_code}")
        # An encoded body could expand without bound; we asked for none.
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise _Refused("sent a compressed answer, which was not asked for")
        length = response.headers.get("Content-Length", "0")
        if not length.isdecimal() or int(length) > self._limits.most_bytes:
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

    def _policy_reason(self, refused: SSRFGuardError) -> str:
        """Say which rule refused, but not which address a name has: that is ours to know."""
        match refused:
            case BlockedAddressError():
                return "is not a public address"
            case TooManyRedirectsError():
                return f"redirects more than {refused.limit} times"
            case _:
                ports = " and ".join(map(str, sorted(self._policy.allowed_ports)))
                return f"is refused: http or https on port {ports} without credentials only"


class _Refused(Exception):
    """A body that we will not read, and why."""


def _base64(body: str) -> bytes:
    try:
        return base64.b64decode(
            "".join(unquote_to_bytes(body).decode("ascii").split()), validate=True
        )
    except (binascii.Error, ValueError):
        raise FetchError("Invalid image data URL: its base64 is malformed") from None


def _host(url: str) -> str:
    try:
        return (httpx.URL(url).host or "the host")[:80]
    except (httpx.InvalidURL, ValueError):
        return "the host"
