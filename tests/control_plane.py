"""Runpod's side of a worker, as far as the SDK speaks to it: job-take, job-done, job-stop, ping.

Also starts the worker processes that it commands, in production mode.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Self, TypeVar

from aiohttp import web

T = TypeVar("T")

LONG_POLL = 0.5
"""Seconds, in place of Runpod's 90: a worker told to end waits for its polls."""

PATIENCE = 60
"""Seconds until a test gives a worker up."""


class ControlPlane:
    """One endpoint with one worker.

    Attributes:
        posts: What the worker posted, with the job's `id`, in the order in which it was processed;
            `DROPPED` is the status of a progress post that the worker abandoned.
        pings: The queries of its heartbeats and health reports.
        hold_progress: Seconds that it takes to process a progress post.
    """

    def __init__(self) -> None:
        self.url = ""
        self.posts: list[dict[str, Any]] = []
        self.pings: list[dict[str, str]] = []
        self.hold_progress = 0.0
        self._jobs: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._stops: asyncio.Queue[str] = asyncio.Queue()

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[Self]:
        """Listen on loopback while the block runs."""
        application = web.Application()
        application.router.add_get("/job-take/{worker}", self._take)
        application.router.add_post("/job-done/{worker}/{job}", self._done)
        application.router.add_get("/job-stop/{worker}", self._stop)
        application.router.add_get("/ping/{worker}", self._ping)
        # Told when the worker drops a connection, or it could not tell what was abandoned.
        runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = "http://{}:{}".format(*runner.addresses[0][:2])
        try:
            yield self
        finally:
            await runner.cleanup()

    @property
    def environment(self) -> dict[str, str]:
        """What Runpod sets on a worker."""
        return {
            "RUNPOD_WEBHOOK_GET_JOB": f"{self.url}/job-take/$ID?gpu=none",
            "RUNPOD_WEBHOOK_POST_OUTPUT": f"{self.url}/job-done/$RUNPOD_POD_ID/$ID?gpu=none",
            "RUNPOD_WEBHOOK_PING": f"{self.url}/ping/$RUNPOD_POD_ID",
            "RUNPOD_PING_INTERVAL": "1000",
            "RUNPOD_AI_API_KEY": "key-of-the-worker",
            "RUNPOD_POD_ID": "pod-1",
            "RUNPOD_POD_HOSTNAME": "host-of-the-worker",
            "RUNPOD_ENDPOINT_ID": "endpoint-1",
            "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
            "RUNPOD_SKIP_GPU_CHECK": "true",
        }

    def send(self, job_id: str, data: object, **more: object) -> None:
        """Queue a job."""
        self._jobs.put_nowait({"id": job_id, "input": data, **more})

    def stop(self, job_id: str) -> None:
        """Tell the worker that the job was cancelled."""
        self._stops.put_nowait(job_id)

    async def run(self, job_id: str, data: object, **more: object) -> dict[str, Any]:
        """Queue a job and return what the worker posts as its result."""
        self.send(job_id, data, **more)
        await until(lambda: bool(self.results(job_id)))
        return self.results(job_id)[0]

    def of(self, job_id: str) -> list[dict[str, Any]]:
        """Return every post about a job."""
        return [post for post in self.posts if post["id"] == job_id]

    def results(self, job_id: str) -> list[dict[str, Any]]:
        """Return the final posts about a job."""
        return [post for post in self.of(job_id) if "status" not in post]

    async def _take(self, _: web.Request) -> web.Response:
        job = await _next(self._jobs)
        return web.json_response(job) if job else web.Response(status=204)

    async def _stop(self, _: web.Request) -> web.Response:
        job_id = await _next(self._stops)
        return web.json_response({"jobsToStop": [job_id]}) if job_id else web.Response(status=204)

    async def _done(self, request: web.Request) -> web.Response:
        # As strict as a server that is not Python: NaN is no JSON.
        post = json.loads(await request.text(), parse_constant=_refuse)
        if "status" in post:
            try:
                await asyncio.sleep(self.hold_progress)
            except asyncio.CancelledError:
                post["status"] = "DROPPED"
        self.posts.append({"id": request.match_info["job"], **post})
        return web.Response()

    async def _ping(self, request: web.Request) -> web.Response:
        self.pings.append(dict(request.query))
        return web.Response()


@dataclass(frozen=True)
class WorkerProcess:
    """A worker, and the file that its standard output and error go to."""

    process: asyncio.subprocess.Process
    output: Path

    @property
    def log(self) -> str:
        """All that it has written so far."""
        return self.output.read_text()

    def lines(self, job_id: str) -> list[str]:
        """Return the messages about one job."""
        lines = [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]
        return [line["message"] for line in lines if line["requestId"] == job_id]


@asynccontextmanager
async def start_worker(
    script: Path, environment: dict[str, str], output: Path
) -> AsyncIterator[WorkerProcess]:
    """Run a worker while the block runs, in an environment without anything of this one's."""
    inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    inherited["OMP_NUM_THREADS"] = "1"  # the model is tiny, and other processes want cores too
    with output.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(script),
            env=inherited | environment,
            cwd=output.parent,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        yield WorkerProcess(process, output)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with its heartbeat
        await process.wait()


async def until(holds: Callable[[], bool]) -> None:
    """Wait for something that a worker brings about."""
    async with asyncio.timeout(PATIENCE):
        while not holds():  # noqa: ASYNC110 - in another process nobody sets an event
            await asyncio.sleep(0.02)


async def _next(queue: asyncio.Queue[T]) -> T | None:
    """Answer as a long poll does."""
    with suppress(TimeoutError):
        async with asyncio.timeout(LONG_POLL):
            return await queue.get()
    return None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)
