"""A receiver of webhooks, and jobs that call it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self

import httpx
from aiohttp import web

from tests.local.served import until
from tests.local.worker import Worker


class Receiver:
    """A web server whose address jobs have as their webhook.

    Attributes:
        codes: Status codes of the next answers; 200 when the list is empty.
        bodies: The bodies of all requests.
        open: An event; while it is cleared, requests are held.
    """

    def __init__(self) -> None:
        self.codes: list[int] = []
        self.bodies: list[dict[str, Any]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.url = ""

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[Self]:
        """Listen on loopback while the block runs."""
        application = web.Application()
        application.router.add_post("/done", self._called)
        runner = web.AppRunner(application, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = "http://{}:{}/done".format(*runner.addresses[0][:2])
        try:
            yield self
        finally:
            await runner.cleanup()

    async def calls(self, count: int) -> list[dict[str, Any]]:
        """Wait for so many requests in all; return their bodies."""
        await until(lambda: len(self.bodies) >= count)
        return self.bodies

    async def _called(self, request: web.Request) -> web.Response:
        self.bodies.append(await request.json())
        await self.open.wait()
        return web.Response(status=self.codes.pop(0) if self.codes else 200)


async def submit(client: httpx.AsyncClient, webhook: str) -> str:
    """Return the id of a new job."""
    answer = await client.post("/run", json={"input": {}, "webhook": webhook})
    job_id: str = answer.json()["id"]
    return job_id


async def complete_job(client: httpx.AsyncClient, worker: Worker, webhook: str) -> str:
    """Return the id of a job that the worker has finished."""
    job_id = await submit(client, webhook)
    await worker.take()
    await worker.finish(job_id, output={"cost": 0.03})
    return job_id
