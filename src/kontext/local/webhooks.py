"""Calls the webhook of a job that has ended: three tries, ten seconds apart, as Runpod does."""

import asyncio
import contextlib
import logging

import httpx

from kontext.local.queue import WEBHOOKS, Queue
from kontext.local.record import Job

TRIES = 3
log = logging.getLogger("kontext")


class Webhooks:
    """Delivers what the store says is due; deliveries outlive a restart with it.

    Args:
        queue: Whose jobs.
        pause: Seconds between two tries.
    """

    def __init__(self, queue: Queue, pause: float = 10.0) -> None:
        self._queue = queue
        self._pause = pause
        self._under_way: set[str] = set()

    async def deliver(self) -> None:
        """Deliver, for ever."""
        patient = httpx.Timeout(10, pool=None)  # waiting for a turn is no failed try
        async with httpx.AsyncClient(timeout=patient) as client, asyncio.TaskGroup() as deliveries:
            while True:
                for job in self._queue.store.undelivered():
                    if job.id not in self._under_way:
                        self._under_way.add(job.id)
                        deliveries.create_task(self._deliver(client, job))
                await self._queue.signals.wait(WEBHOOKS, seconds=60)

    async def _deliver(self, client: httpx.AsyncClient, job: Job) -> None:
        for tried in range(job.deliveries or 0, TRIES):
            if tried:
                await asyncio.sleep(self._pause)
            if await _accepted(client, job):
                break
            self._queue.store.note_delivery(job, tried + 1)
        else:
            log.warning("the webhook of %s did not answer 200 in %d tries", job.id, TRIES)
        self._queue.store.note_delivery(job, None)
        self._under_way.discard(job.id)
        self._queue.signals.send(WEBHOOKS)  # for a job that was retried, and ended again meanwhile


async def _accepted(client: httpx.AsyncClient, job: Job) -> bool:
    with contextlib.suppress(httpx.HTTPError, httpx.InvalidURL):
        answer = await client.post(str(job.webhook), json=job.envelope())
        return answer.status_code == httpx.codes.OK
    return False
