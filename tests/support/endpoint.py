"""An endpoint whose worker the test starts itself, to see its output and how it ends.

The server is the local one. A recorder around it keeps what the server does not show: every post
and every heartbeat, in order.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from pydantic import model_serializer
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kontext.local.jobs import Status, Submission
from tests.local.served import INHERITED, PATIENCE, Served, serving, until

WORKER = "pod-1"


@dataclass
class Recorder:
    """Wraps the server's application and records the requests of the worker.

    Attributes:
        posts: The worker's posts, with the job's `id`, in the order in which they were processed;
            `DROPPED` is the status of a progress post that the worker abandoned.
        pings: The queries of the worker's heartbeats and health reports.
        polls: The number of polls for a job.
        hold_progress: The seconds that a progress post takes.
        instead: Answers that replace the server's, by a part of the path.
    """

    posts: list[dict[str, Any]] = field(default_factory=list)
    pings: list[dict[str, str]] = field(default_factory=list)
    polls: int = 0
    hold_progress: float = 0.0
    instead: dict[str, Response] = field(default_factory=dict)

    def __call__(self, application: ASGIApp) -> ASGIApp:
        """Return the application with the recorder around it."""

        async def watched(scope: Scope, receive: Receive, send: Send) -> None:
            path = scope.get("path", "")
            self.polls += "/job-take/" in path
            for part, response in self.instead.items():
                if part in path:
                    return await response(scope, receive, send)
            if "/job-done/" in path:
                receive = await self._posted(Request(scope, receive))
            if "/ping/" in path:
                self.pings.append(dict(Request(scope).query_params))
            return await application(scope, receive, send)

        return watched

    async def _posted(self, request: Request) -> Receive:
        """Record a post after `hold_progress`; return a function that reads it again."""
        body = await request.body()
        # NaN is no JSON, so a server that is not Python would refuse it.
        post = json.loads(body, parse_constant=_refuse)
        if "status" in post and await _abandoned(request, self.hold_progress):
            post["status"] = "DROPPED"
        self.posts.append({"id": request.url.path.rpartition("/")[2], **post})

        async def again() -> Message:
            return {"type": "http.request", "body": body}

        return again


class Unchecked(Submission):
    """A job with any `input`, also one that the API refuses."""

    input: Any

    @model_serializer
    def whole(self) -> dict[str, Any]:
        """Keep an `input` of null, which a client's submission leaves out."""
        config = {"s3Config": self.s3Config} if self.s3Config else {}
        return {"input": self.input, **config}


@dataclass(frozen=True)
class Endpoint:
    """A running server for one worker."""

    served: Served
    recorder: Recorder

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that Runpod sets on a worker."""
        return {
            **self.served.server.control_plane,
            "RUNPOD_POD_ID": WORKER,
            "RUNPOD_POD_HOSTNAME": "host-of-the-worker",
            "RUNPOD_SKIP_GPU_CHECK": "true",
        }

    def send(self, data: object, **more: Any) -> str:
        """Queue a job and return its id."""
        queue = self.served.server.queue
        return queue.submit(Unchecked(input=data, **more), sync=False).id

    async def run(self, data: object, **more: Any) -> dict[str, Any]:
        """Queue a job and return the result that the worker posts and a client reads."""
        post = await self.result(self.send(data, **more))
        seen = await self.served.client.status(post["id"])
        assert {name: seen.get(name) for name in ("output", "error")} == {
            name: post.get(name) for name in ("output", "error")
        }
        return post

    async def result(self, job_id: str) -> dict[str, Any]:
        """Wait for a job's end and return the first final post about it."""
        await self.served.server.queue.wait_until_finished(job_id, PATIENCE)
        return self.results(job_id)[0]

    async def status(self, job_id: str) -> Status:
        """Return the status that a client reads."""
        return Status((await self.served.client.status(job_id))["status"])

    async def stop(self, job_id: str, worker: "WorkerProcess") -> None:
        """Cancel a job that the worker has, as a client does."""
        await self.served.client.cancel(job_id)
        await until(lambda: "Job stopped." in worker.lines(job_id))

    def of(self, job_id: str) -> list[dict[str, Any]]:
        """Return every post about a job."""
        return [post for post in self.recorder.posts if post["id"] == job_id]

    def results(self, job_id: str) -> list[dict[str, Any]]:
        """Return the final posts about a job."""
        return [post for post in self.of(job_id) if "status" not in post]


@asynccontextmanager
async def serve_endpoint(directory: Path) -> AsyncIterator[Endpoint]:
    """Serve while the block runs; the worker sends a heartbeat each second."""
    recorder = Recorder()
    async with serving(directory, workers=0, hung_timeout_seconds=6, wrap=recorder) as served:
        yield Endpoint(served, recorder)
        # Or the server would wait for the polls that it holds.
        served.server.queue.close_worker(WORKER)


@dataclass(frozen=True)
class WorkerProcess:
    """A worker's process, and the file of its standard output and error."""

    process: asyncio.subprocess.Process
    output: Path

    @property
    def log(self) -> str:
        """The worker's output so far."""
        return self.output.read_text()

    def lines(self, job_id: str) -> list[str]:
        """Return the log messages about one job."""
        lines = [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]
        return [line["message"] for line in lines if line["requestId"] == job_id]

    async def exit_code(self, seconds: float = PATIENCE) -> int:
        """Wait for the process to end, for at most `seconds`."""
        async with asyncio.timeout(seconds):
            return await self.process.wait()


@asynccontextmanager
async def start_worker(
    script: Path, environment: Mapping[str, str], output: Path
) -> AsyncIterator[WorkerProcess]:
    """Run a worker while the block runs, without this process's environment variables."""
    inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
    inherited["OMP_NUM_THREADS"] = "1"  # the model is tiny, and other processes need the cores
    inherited["MIN_GENERATION_MEGAPIXELS"] = "0"  # small images, quickly
    with output.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(script),
            env={**inherited, **environment},
            cwd=output.parent,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        yield WorkerProcess(process, output)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # and its heartbeat process
        await process.wait()


async def _abandoned(request: Request, seconds: float) -> bool:
    """Hold a request whose body was read; return whether its sender drops it meanwhile."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await request.receive()  # only the end of the connection can follow
            return True
    return False


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)
