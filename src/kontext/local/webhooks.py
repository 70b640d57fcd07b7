"""Calls the webhook of a job that has ended: three tries, ten seconds apart, as Runpod does.

A client chooses the address, so `ssrfguard` connects to public addresses, to loopback and to the
networks of `FETCH_ALLOWED_NETWORKS` only. Of an answer only the status code is read. Knows the
request that a receiver gets; does not know why a job ended.
"""

import asyncio
import logging
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial
from ipaddress import ip_network

import httpx
from ssrfguard import BlockedAddressError, BlockedURLError, Policy
from ssrfguard.httpx import AsyncClient

from kontext.address_policy import address_policy
from kontext.local.job_table import Job
from kontext.local.queue import DUE_WEBHOOKS, Queue
from kontext.local.queue_unavailable import retry_until_available
from kontext.settings import Settings

MAX_TRIES = 3
PAUSE_SECONDS = 10.0
TRY_TIMEOUT_SECONDS = 10.0
"""How long one try may take, from the name's resolution to the status code."""

MAX_CONCURRENT_CALLS = 100

LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
log = logging.getLogger("kontext")


def webhook_policy(settings: Settings) -> Policy:
    """Return the address policy of images, extended by loopback and by every port.

    A developer's receiver listens on this machine, on a port such as 3000.
    """
    policy = address_policy(settings)
    networks = (*policy.allowed_networks, *LOOPBACK)
    return replace(policy, allowed_networks=networks, allowed_ports=frozenset(range(1, 65536)))


class Webhooks:
    """Calls the webhooks that are due; the store keeps count of the tries, also over a restart.

    Args:
        queue: The queue whose ended jobs are announced.
        policy: The addresses that may be called.
        pause_seconds: Time between two tries.
    """

    def __init__(self, queue: Queue, policy: Policy, pause_seconds: float = PAUSE_SECONDS) -> None:
        self._queue = queue
        self._policy = policy
        self._pause_seconds = pause_seconds
        self._under_way: set[str] = set()
        self._turns = asyncio.Semaphore(MAX_CONCURRENT_CALLS)

    async def deliver(self) -> None:
        """Call each webhook when it becomes due, until cancelled."""
        # A proxy from the environment would resolve names itself, out of the policy's reach.
        client = AsyncClient(policy=self._policy, timeout=TRY_TIMEOUT_SECONDS, trust_env=False)
        async with client, asyncio.TaskGroup() as deliveries:
            while True:
                due = self._queue.store.due_webhooks
                for job in await retry_until_available(due, "looking for due webhooks"):
                    if job.id not in self._under_way:
                        self._under_way.add(job.id)
                        deliveries.create_task(self._deliver(client, job))
                await self._queue.notifier.wait(DUE_WEBHOOKS, seconds=60)

    async def _deliver(self, client: httpx.AsyncClient, job: Job) -> None:
        for tried in range(job.deliveries or 0, MAX_TRIES):
            if tried:
                await asyncio.sleep(self._pause_seconds)
            # Before the call: one whose answer ends this process must not be made for ever.
            await self._record_tries(job, tried + 1)
            if await self._is_accepted(client, job):
                break
        else:
            log.warning("the webhook of %s did not answer 200 in %d tries", job.id, MAX_TRIES)
        await self._record_tries(job, None)
        self._under_way.discard(job.id)
        # The job may have been retried and have ended again meanwhile.
        self._queue.notifier.notify(DUE_WEBHOOKS)

    async def _record_tries(self, job: Job, tries: int | None) -> None:
        record = partial(self._queue.store.record_delivery, job, tries)
        await retry_until_available(record, "noting a webhook's delivery")

    async def _is_accepted(self, client: httpx.AsyncClient, job: Job) -> bool:
        try:
            async with (
                self._turns,
                asyncio.timeout(TRY_TIMEOUT_SECONDS),
                _post(client, job) as answer,
            ):
                return answer.status_code == httpx.codes.OK
        except (BlockedAddressError, BlockedURLError) as refused:
            log.warning("the webhook of %s was not called: %s", job.id, refused)
        except Exception as error:  # noqa: BLE001 - the receiver chooses what is raised
            log.info("the webhook of %s failed: %s", job.id, type(error).__name__)
        return False


def _post(client: httpx.AsyncClient, job: Job) -> AbstractAsyncContextManager[httpx.Response]:
    """Send the request that announces a job: all of its headers and its body are made here."""
    return client.stream("POST", str(job.webhook), json=job.envelope())
