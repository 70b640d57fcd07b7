"""The routes that Runpod's SDK calls from inside a worker: take, stop, done, stream and ping.

Knows the SDK's requests and answers; does not know processes.
"""

import json
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from fastapi import APIRouter, Depends, Request, Response

from kontext.local.app import ApiError, read_body
from kontext.local.client_api import MAX_RUNSYNC_BYTES
from kontext.local.jobs import InvalidBody, json_object
from kontext.local.queue import Queue
from kontext.local.queue_unavailable import QueueUnavailable, retry_until_available

POLL_TIMEOUT_SECONDS = 25.0
"""How long a request for a job is held; the SDK gives up after 90."""


class WorkerApi:
    """The handlers of the workers' routes.

    Args:
        queue: The queue that the workers take their jobs from.
        record_heartbeat: A function called with the id of each worker that calls, and with whether
            the worker is healthy.
        replace: A function called with the id of each worker that asks to be replaced.
    """

    def __init__(
        self,
        queue: Queue,
        record_heartbeat: Callable[[str, bool], None],
        replace: Callable[[str], None],
    ) -> None:
        self._queue = queue
        self._record_heartbeat = record_heartbeat
        self._replace = replace

    def routes(self, authorised: Callable[..., Awaitable[None]]) -> APIRouter:
        """Return a router; `authorised` is a dependency that raises without the workers' key."""
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
        """Answer with the next job, or with 204 if none comes in time."""
        self._record_heartbeat(worker, True)
        try:
            job = await self._queue.take(worker, POLL_TIMEOUT_SECONDS)
        except QueueUnavailable as error:
            # At 429 the SDK pauses 5 seconds; at 503 it would ask again at once.
            raise ApiError(429, str(error)) from error
        return _json({"id": job.id, **job.body}) if job else Response(status_code=204)

    async def job_stop(self, worker: str) -> Response:
        """Answer with the ids of the jobs to stop, as soon as there are any."""
        job_ids = await self._queue.wait_for_jobs_to_stop(worker, POLL_TIMEOUT_SECONDS)
        return _json({"jobsToStop": job_ids})

    async def job_done(self, worker: str, job_id: str, request: Request) -> Response:
        """Record progress or a result."""
        posted = await _posted_object(request)
        if posted.get("status") == "IN_PROGRESS":
            self._queue.store.record_progress(job_id, worker, posted.get("output"))
            return _json({})
        stop_pod = posted.pop("stopPod", False)
        # The SDK drops a result that was refused often enough, so it is held while a disk is full.
        finish = partial(self._queue.finish, job_id, worker, _answer(posted))
        await retry_until_available(finish, "recording a result")
        if stop_pod:
            self._replace(worker)
        return _json({})

    async def job_stream(self, worker: str, job_id: str, request: Request) -> Response:
        """Record a generator's chunk."""
        posted = await _posted_object(request)
        self._queue.add_chunk(job_id, worker, posted)
        return _json({})

    async def ping(self, worker: str, status: str = "healthy") -> Response:
        """Record a heartbeat; a worker whose boot failed reports so here, and then exits."""
        self._record_heartbeat(worker, status == "healthy")
        return _json({})


async def _posted_object(request: Request) -> dict[str, Any]:
    """Return the JSON object that the SDK posts, though it declares it as a form.

    A body that cannot be read becomes an error, which fails its job: if it were refused, the SDK
    would drop it, and the job would hang.
    """
    try:
        return json_object(await read_body(request, MAX_RUNSYNC_BYTES))
    except (ApiError, InvalidBody) as error:
        return {"error": f"The worker's result could not be taken: {error}"}


def _answer(posted: dict[str, Any]) -> dict[str, Any]:
    """Keep what `/status` shows: `output`, and `error`, which is always a string."""
    answer = {name: posted[name] for name in ("output", "error") if posted.get(name) is not None}
    if "error" in answer and not isinstance(answer["error"], str):
        answer["error"] = json.dumps(answer["error"])
    return answer


def _json(content: object) -> Response:
    return Response(json.dumps(content), media_type="application/json")
