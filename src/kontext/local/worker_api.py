"""What Runpod's SDK calls from inside a worker: take, stop, progress and done, stream, ping."""

import json
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from fastapi import APIRouter, Depends, Request, Response

from kontext.local.client_api import RUNSYNC_BYTES, read
from kontext.local.errors import ApiError, QueueUnavailable
from kontext.local.jobs import InvalidBody, json_object
from kontext.local.persistence import when_available
from kontext.local.queue import Queue

POLL_SECONDS = 25.0
"""How long a poll is held; the SDK gives up after 90."""


class WorkerApi:
    """The handlers; `routes` gives them the paths that workers are told.

    Args:
        queue: Where the jobs are.
        seen: Told the id of each worker that calls, and whether it can serve.
        replace: Told the id of each worker that asks to be replaced.
    """

    def __init__(
        self, queue: Queue, seen: Callable[[str, bool], None], replace: Callable[[str], None]
    ) -> None:
        self._queue = queue
        self._seen = seen
        self._replace = replace

    def routes(self, authorised: Callable[..., Awaitable[None]]) -> APIRouter:
        """Return the paths; `authorised` raises for a caller that is no worker of ours."""
        router = APIRouter(
            prefix="/v2/{endpoint}", dependencies=[Depends(authorised)], include_in_schema=False
        )
        router.get("/job-take/{worker}")(self.job_take)
        router.get("/job-stop/{worker}")(self.job_stop)
        router.post("/job-done/{worker}/{job_id}")(self.job_done)
        router.post("/job-stream/{worker}/{job_id}")(self.job_stream)
        router.get("/ping/{worker}")(self.ping)
        return router

    async def job_take(self, worker: str) -> Response:
        """Hand out a job, or 204 when none comes."""
        self._seen(worker, True)
        try:
            job = await self._queue.take(worker, POLL_SECONDS)
        except QueueUnavailable as error:
            # At 429 the SDK pauses 5 seconds; at 503 it would ask again at once.
            raise ApiError(429, str(error)) from error
        return _json({"id": job.id, **job.body}) if job else Response(status_code=204)

    async def job_stop(self, worker: str) -> Response:
        """Name the jobs to stop, as soon as there are any."""
        return _json({"jobsToStop": await self._queue.stops(worker, POLL_SECONDS)})

    async def job_done(self, worker: str, job_id: str, request: Request) -> Response:
        """Take progress or a result."""
        posted = await _posted(request)
        if posted.get("status") == "IN_PROGRESS":
            self._queue.store.progress(job_id, worker, posted.get("output"))
            return _json({})
        stop_pod = posted.pop("stopPod", False)
        # The SDK drops a result that is refused often enough; so it waits for a full disk.
        finish = partial(self._queue.finish, job_id, worker, _answer(posted))
        await when_available(finish, "recording a result")
        if stop_pod:
            self._replace(worker)
        return _json({})

    async def job_stream(self, worker: str, job_id: str, request: Request) -> Response:
        """Take a generator's chunk."""
        posted = await _posted(request)
        self._queue.stream(job_id, worker, posted)
        return _json({})

    async def ping(self, worker: str, status: str = "healthy") -> Response:
        """Take a sign of life; a worker that cannot boot says so here, and exits by itself."""
        self._seen(worker, status == "healthy")
        return _json({})


async def _posted(request: Request) -> dict[str, Any]:
    """Read what the SDK posts: JSON, though it says it were a form.

    What cannot be read fails its job: refused, the SDK would drop it, and the job would hang.
    """
    try:
        return json_object(await read(request, RUNSYNC_BYTES))
    except (ApiError, InvalidBody) as error:
        return {"error": f"The worker's result could not be taken: {error}"}


def _answer(posted: dict[str, Any]) -> dict[str, Any]:
    """Keep what the envelope shows: `output`, and `error`, which is always a string."""
    answer = {name: posted[name] for name in ("output", "error") if posted.get(name) is not None}
    if "error" in answer and not isinstance(answer["error"], str):
        answer["error"] = json.dumps(answer["error"])
    return answer


def _json(content: object) -> Response:
    return Response(json.dumps(content), media_type="application/json")
