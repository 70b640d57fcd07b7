"""Posting results and progress to Runpod, through outages that last a few minutes.

The SDK tries three times within three seconds and then drops the result: its job has been paid for
in GPU time, and its caller waits until the job's timeout. What is posted is the SDK's business.
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

RESULT_SECONDS = 300.0
"""For how long a result is posted again and again, also after a SIGTERM: Runpod counts a job as
timed out after 600 seconds by default, and by then nobody waits for the result."""

ATTEMPT_SECONDS = 30.0
"""What one attempt may take; a result has a few hundred bytes."""

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 5.0
"""Seconds to pause after the first failed attempt, and after many in a row."""

_HEADERS = {"charset": "utf-8", "Content-Type": "application/x-www-form-urlencoded"}
"""As the SDK sends them; the body is JSON all the same."""

_SERVER_ERROR = HTTPStatus.INTERNAL_SERVER_ERROR
"""The first of the statuses that blame the server."""

_failures = FailureLog("posts of results and progress")


def retry_for_minutes() -> None:
    """Make the SDK post everything by `post`."""
    rp_http._transmit = post  # all its posts go through this one function


async def post(
    session: ClientSession, url: str, body: str, seconds: float = RESULT_SECONDS
) -> None:
    """Post `body`, again after each failure that may pass, for `seconds` at most.

    Raises:
        ClientResponseError: Refused for good: a status of 400 to 499, but not 429.
        ClientError: Every attempt has failed. The SDK writes one line about either.
    """
    # Other jobs, which share the session, set theirs while this one pauses.
    headers = {**_HEADERS, "X-Request-ID": session.headers.get("X-Request-ID", "")}
    backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
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
    """Post once; return the failure, if it is one that may pass.

    Raises:
        ClientError: It will not pass.
    """
    options: dict[str, Any] = {"headers": headers, "timeout": ClientTimeout(ATTEMPT_SECONDS)}
    try:
        async with session.post(url, data=body, raise_for_status=True, **options):
            return None
    except ClientResponseError as error:
        if error.status == HTTPStatus.TOO_MANY_REQUESTS or error.status >= _SERVER_ERROR:
            return error
        raise
    except (ClientConnectionError, TimeoutError) as error:
        return error
