"""Fails one waiting job when the worker cannot start, so that its caller learns of it.

Runpod's SDK runs the steps of a boot as fitness checks, before it fetches any job. When a check
fails, it reports that to Runpod and ends the process at once. Jobs then wait for a worker that can
start, for as long as they live if there is none. So this module fetches one waiting job and fails
it before the SDK learns of the failed check. Only one, because the next worker may be on a machine
that can serve the others.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import wraps

from runpod.http_client import AsyncClientSession
from runpod.serverless.modules import rp_job
from runpod.serverless.modules.rp_http import send_result

from kontext.errors import boot_failure_sentence

log = logging.getLogger("kontext")

REQUEST_TIMEOUT_SECONDS = 5.0
"""How long fetching a job may take, and posting its failure. A waiting job arrives at once."""


def as_fitness_check(step: Callable[[], None]) -> Callable[[], Awaitable[None]]:
    """Return a fitness check that runs `step` and, when that fails, first fails a waiting job."""

    @wraps(step)  # the SDK reports its name
    async def check() -> None:
        try:
            step()
        except Exception:
            await _fail_one_job(step.__name__)
            raise

    return check


async def _fail_one_job(step: str) -> None:
    try:
        async with AsyncClientSession() as session:
            async with asyncio.timeout(REQUEST_TIMEOUT_SECONDS):
                jobs = await rp_job.get_job(session, 1)
            for job in jobs or ():
                async with asyncio.timeout(REQUEST_TIMEOUT_SECONDS):
                    await send_result(session, {"error": boot_failure_sentence(step)}, job)
    except TimeoutError:
        log.info("no waiting job was told that this worker cannot start")
    except Exception as error:  # noqa: BLE001 - the cause of the failed boot matters more
        log.warning("no waiting job was told that this worker cannot start: %r", error)
