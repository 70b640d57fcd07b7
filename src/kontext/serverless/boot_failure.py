"""A boot that fails, told to the caller of a job that waits.

Runpod's SDK runs the steps of a boot as fitness checks, before it takes any job. When one fails, it
reports that to Runpod and ends the process at once, so that jobs wait for a worker that can start:
for as long as they live, if none can. So one job that waits is taken here, and failed, before the
SDK learns of it. One only, for the next worker may be on a machine that can serve the others.
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

PATIENCE = 5.0
"""Seconds that taking a job may take, and posting its failure. One that waits comes at once."""


def answering(step: Callable[[], None]) -> Callable[[], Awaitable[None]]:
    """Return a fitness check that runs `step`, and fails one waiting job before it fails itself."""

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
            async with asyncio.timeout(PATIENCE):
                jobs = await rp_job.get_job(session, 1)
            for job in jobs or ():
                async with asyncio.timeout(PATIENCE):
                    await send_result(session, {"error": boot_failure_sentence(step)}, job)
    except TimeoutError:
        log.info("no waiting job was told that this worker cannot start")
    except Exception as error:  # noqa: BLE001 - what matters is why the boot has failed
        log.warning("no waiting job was told that this worker cannot start: %r", error)
