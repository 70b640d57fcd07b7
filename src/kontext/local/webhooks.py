"""Calls the webhook of a job that has ended: three tries, ten seconds apart, as Runpod does.

A webhook is an address that a client chose, so `ssrfguard` dials public addresses, loopback and
the networks of `FETCH_ALLOWED_NETWORKS` alone. Only the status code of an answer is read.
"""

import asyncio
import logging
from dataclasses import replace
from functools import partial
from ipaddress import ip_network

import httpx
from ssrfguard import BlockedAddressError, BlockedURLError, Policy
from ssrfguard.httpx import AsyncClient

from kontext.address_policy import address_policy
from kontext.local.persistence import when_available
from kontext.local.queue import WEBHOOKS, Queue
from kontext.local.record import Job
from kontext.settings import Settings

TRIES = 3
TRY_SECONDS = 10.0
"""What one try may take, from the look-up of the name to the status code."""

AT_ONCE = 100
"""How many webhooks are called at the same time."""

LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
log = logging.getLogger("kontext")


def webhook_policy(settings: Settings) -> Policy:
    """Return the policy of images' addresses, and with it loopback and every port.

    The receiver of a developer listens on this machine, on a port such as 3000.
    """
    policy = address_policy(settings)
    networks = (*policy.allowed_networks, *LOOPBACK)
    return replace(policy, allowed_networks=networks, allowed_ports=frozenset(range(1, 65536)))


class Webhooks:
    """Delivers what the store says is due; deliveries outlive a restart with it.

    Args:
        queue: The queue whose ended jobs are announced.
        policy: Which addresses may be dialled.
        pause: Seconds between two tries.
    """

    def __init__(self, queue: Queue, policy: Policy, pause: float = 10.0) -> None:
        self._queue = queue
        self._policy = policy
        self._pause = pause
        self._under_way: set[str] = set()
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def deliver(self) -> None:
        """Deliver, for ever."""
        # A proxy of the environment would resolve names itself, out of the policy's sight.
        client = AsyncClient(policy=self._policy, timeout=TRY_SECONDS, trust_env=False)
        async with client, asyncio.TaskGroup() as deliveries:
            while True:
                due = self._queue.store.undelivered
                for job in await when_available(due, "looking for due webhooks"):
                    if job.id not in self._under_way:
                        self._under_way.add(job.id)
                        deliveries.create_task(self._deliver(client, job))
                await self._queue.signals.wait(WEBHOOKS, seconds=60)

    async def _deliver(self, client: httpx.AsyncClient, job: Job) -> None:
        for tried in range(job.deliveries or 0, TRIES):
            if tried:
                await asyncio.sleep(self._pause)
            # Before the try: an answer that ends this process must not be asked for for ever.
            await self._note(job, tried + 1)
            if await self._accepted(client, job):
                break
        else:
            log.warning("the webhook of %s did not answer 200 in %d tries", job.id, TRIES)
        await self._note(job, None)
        self._under_way.discard(job.id)
        self._queue.signals.send(WEBHOOKS)  # for a job that was retried, and ended again meanwhile

    async def _note(self, job: Job, tries: int | None) -> None:
        note = partial(self._queue.store.note_delivery, job, tries)
        await when_available(note, "noting a webhook's delivery")

    async def _accepted(self, client: httpx.AsyncClient, job: Job) -> bool:
        try:
            async with (
                self._turns,
                asyncio.timeout(TRY_SECONDS),
                client.stream("POST", str(job.webhook), json=job.envelope()) as answer,
            ):
                return answer.status_code == httpx.codes.OK
        except (BlockedAddressError, BlockedURLError) as refused:
            log.warning("the webhook of %s was not called: %s", job.id, refused)
        except Exception as error:  # noqa: BLE001 - the receiver chooses what is raised
            log.info("the webhook of %s failed: %s", job.id, type(error).__name__)
        return False
