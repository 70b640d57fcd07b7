"""The routes that clients call: Runpod's API v2, under any endpoint id.

Knows Runpod's paths, envelopes and limits; does not know who runs a job.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Query, Request

from kontext.local import MAX_WAITING_JOBS, expiry
from kontext.local.app import MEBIBYTE, ApiError, read_body
from kontext.local.job_table import Job
from kontext.local.jobs import DAY, SECOND, InvalidBody, Status, Submission
from kontext.local.queue import Queue

MAX_RUN_BYTES, MAX_RUNSYNC_BYTES = 10 * MEBIBYTE, 20 * MEBIBYTE
MIN_WAIT, DEFAULT_WAIT, MAX_WAIT = 1 * SECOND, 90 * SECOND, 300 * SECOND

STREAM_TIMEOUT_SECONDS = 1.0
"""How long /stream waits for a chunk, because runpod-sdk asks again without a pause."""

Wait = Annotated[int, Query(description="Milliseconds; limited to 1000 to 300000.")]
Ttl = Annotated[
    int, Query(description="Milliseconds from now until the job is deleted.", gt=0, le=7 * DAY)
]
Envelope = dict[str, Any]
T = TypeVar("T")


class ClientApi:
    """The handlers of the clients' routes.

    Args:
        queue: The queue that clients send their jobs to.
        ready_workers: A function that returns the ids of the workers that have booted.
        max_waiting_jobs: Number of jobs that may wait; a further one is answered with 429.
    """

    def __init__(
        self,
        queue: Queue,
        ready_workers: Callable[[], set[str]],
        max_waiting_jobs: int = MAX_WAITING_JOBS,
    ) -> None:
        self._queue = queue
        self._ready_workers = ready_workers
        self._max_waiting_jobs = max_waiting_jobs

    def routes(self, authorised: Callable[..., Awaitable[None]]) -> APIRouter:
        """Return a router; `authorised` is a dependency that raises without the clients' key."""
        router = APIRouter(prefix="/v2/{endpoint}", dependencies=[Depends(authorised)])
        router.post("/run", openapi_extra=_body_schema())(self.run)
        router.post("/runsync", openapi_extra=_body_schema())(self.runsync)
        router.get("/status/{job_id}")(self.status)
        router.get("/status-sync/{job_id}")(self.status_sync)
        router.post("/status-sync/{job_id}", include_in_schema=False)(self.status_sync)
        router.get("/stream/{job_id}")(self.stream)
        router.post("/cancel/{job_id}")(self.cancel)
        router.post("/retry/{job_id}")(self.retry)
        router.post("/purge-queue")(self.purge_queue)
        router.get("/health")(self.health)
        return router

    async def run(self, request: Request) -> Envelope:
        """Queue a job and return at once; its result is kept for 30 minutes."""
        job = self._submit(await _submission(request, MAX_RUN_BYTES), sync=False)
        return {"id": job.id, "status": job.status}

    async def runsync(self, request: Request, wait: Wait = DEFAULT_WAIT) -> Envelope:
        """Queue a job and return its result, or its status when `wait` is over before."""
        job = self._submit(await _submission(request, MAX_RUNSYNC_BYTES), sync=True)
        return await self.status_sync(job.id, wait)

    async def status(self, job_id: str, ttl: Ttl | None = None) -> Envelope:
        """Return a job in its current state."""
        if ttl is not None:
            expiry.set_ttl(self._queue.store, job_id, ttl / SECOND)
        return _found(self._queue.store.get(job_id)).envelope()

    async def status_sync(self, job_id: str, wait: Wait = DEFAULT_WAIT) -> Envelope:
        """Return a job when it has ended, or in its current state after `wait`."""
        seconds = min(max(wait, MIN_WAIT), MAX_WAIT) / SECOND
        return _found(await self._queue.wait_until_finished(job_id, seconds)).envelope()

    async def stream(self, job_id: str) -> Envelope:
        """Return the chunks that a generator has yielded since the last call."""
        job, chunks = _found(await self._queue.wait_for_chunks(job_id, STREAM_TIMEOUT_SECONDS))
        return {"status": job.status, "stream": chunks}

    async def cancel(self, job_id: str) -> Envelope:
        """Cancel a waiting or running job."""
        job = _found(self._queue.cancel(job_id))
        return {"id": job.id, "status": job.status}

    async def retry(self, job_id: str) -> Envelope:
        """Requeue a failed or timed out job."""
        job, retried = _found(self._queue.retry(job_id))
        if not retried:
            raise ApiError(400, f"only a FAILED or TIMED_OUT job can be retried, not {job.status}")
        return {"id": job.id, "status": job.status}

    async def purge_queue(self) -> Envelope:
        """Cancel every waiting job."""
        return {"removed": self._queue.purge(), "status": "completed"}

    async def health(self) -> Envelope:
        """Count jobs and workers."""
        counts, running = self._queue.store.counts(), self._queue.store.running_workers()
        return {
            "jobs": {
                "completed": counts.get(Status.COMPLETED, 0),
                "failed": counts.get(Status.FAILED, 0),
                "inProgress": counts.get(Status.IN_PROGRESS, 0),
                "inQueue": counts.get(Status.IN_QUEUE, 0),
                "retried": counts["retried"],
            },
            "workers": {"idle": len(self._ready_workers() - running), "running": len(running)},
        }

    def _submit(self, submission: Submission, sync: bool) -> Job:
        if self._queue.store.count_waiting() >= self._max_waiting_jobs:
            raise ApiError(
                429, f"the queue is full: {self._max_waiting_jobs} jobs wait; try again later"
            )
        return self._queue.submit(submission, sync)


def _body_schema() -> dict[str, Any]:
    """Describe a body in OpenAPI; FastAPI cannot, as `_submission` reads it under a size limit."""
    schema = Submission.model_json_schema()
    # Inline: a reference would be resolved in the whole page, which lacks this schema.
    schema["properties"]["policy"] = schema.pop("$defs")["Policy"]
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


async def _submission(request: Request, max_bytes: int) -> Submission:
    try:
        return Submission.parse(await read_body(request, max_bytes))
    except InvalidBody as error:
        raise ApiError(400, str(error)) from None


def _found(found: T | None) -> T:
    if found is None:
        raise ApiError(404, "job not found")
    return found
