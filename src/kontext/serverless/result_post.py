"""Posts results and progress to Runpod, through outages that last a few minutes.

The SDK tries three times within three seconds and then drops the result, although the job has used
GPU time and its caller waits until the job's timeout. The SDK decides what is posted.
"""

import asyncio
from http import HTTPStatus
from typing import Any

from aiohttp import (
    ClientConnectionError,
    ClientResponseError,
    ClientSession,
    ClientTimeout,
    ServerTimeoutError,
)
from runpod.serverless.modules import rp_http

from kontext.serverless.backoff import Backoff, FailureLog

RESULT_TIMEOUT_SECONDS = 300.0
"""How long posting a result is retried, also after a SIGTERM. Runpod counts a job as timed out
after 600 seconds by default, and then no client waits for the result."""

ATTEMPT_TIMEOUT_SECONDS = 30.0
"""How long one attempt may take; a result has a few hundred bytes."""

FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.5, 5.0
"""The pause after the first failed attempt, and after many in a row."""

_HEADERS = {"charset": "utf-8", "Content-Type": "application/x-www-form-urlencoded"}
"""What the SDK sends, although the body is JSON."""

_SERVER_ERROR = HTTPStatus.INTERNAL_SERVER_ERROR
"""The lowest status that means a failure of the server."""

_failures = FailureLog("posts of results and progress")


def retry_for_minutes() -> None:
    """Make the SDK send all its posts through `post`."""
    rp_http._transmit = post  # the function that all its posts use


async def post(
    session: ClientSession, url: str, body: str, seconds: float = RESULT_TIMEOUT_SECONDS
) -> None:
    """Post `body`; retry temporary failures for at most `seconds`.

    Raises:
        ClientResponseError: The server refused it: a status of 400 to 499 other than 429.
        ClientError: Every attempt failed. The SDK logs one line about either error.
    """
    # Copied, because other jobs change the shared session's header while this one pauses.
    headers = {**_HEADERS, "X-Request-ID": session.headers.get("X-Request-ID", "")}
    backoff = Backoff(FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS)
    try:
        async with asyncio.timeout(seconds):
            while (failure := await _failure_of_attempt(session, url, body, headers)) is not None:
                _failures.note(f"{type(failure).__name__}: {failure}")
                await asyncio.sleep(backoff.pause())
    except TimeoutError as error:
        raise ServerTimeoutError(f"not taken in {seconds:g} seconds") from error


async def _failure_of_attempt(
    session: ClientSession, url: str, body: str, headers: dict[str, str]
) -> Exception | None:
    """Post once; return a temporary failure, or None after a success.

    Raises:
        ClientError: The failure is permanent.
    """
    options: dict[str, Any] = {
        "headers": headers,
        "timeout": ClientTimeout(ATTEMPT_TIMEOUT_SECONDS),
    }
    try:
        async with session.post(url, data=body, raise_for_status=True, **options):
            return None
    except ClientResponseError as error:
        if error.status == HTTPStatus.TOO_MANY_REQUESTS or error.status >= _SERVER_ERROR:
            return error
        raise
    except (ClientConnectionError, TimeoutError) as error:
        return error
