"""What clients call: Runpod's API v2, under any endpoint id."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Query, Request

from kontext.local import QUEUE_LIMIT
from kontext.local.errors import ApiError
from kontext.local.jobs import DAY, SECOND, InvalidBody, Status, Submission
from kontext.local.queue import Queue
from kontext.local.record import Job

MEBIBYTE = 2**20
RUN_BYTES, RUNSYNC_BYTES = 10 * MEBIBYTE, 20 * MEBIBYTE
SHORTEST_WAIT, DEFAULT_WAIT, LONGEST_WAIT = 1 * SECOND, 90 * SECOND, 300 * SECOND

STREAM_SECONDS = 1.0
"""How long /stream waits for a chunk: runpod-sdk asks again at once, for ever."""

Wait = Annotated[int, Query(description="Milliseconds; brought into 1000 to 300000.")]
Ttl = Annotated[
    int, Query(description="Milliseconds from now until the job is forgotten.", gt=0, le=7 * DAY)
]
Envelope = dict[str, Any]
T = TypeVar("T")


class ClientApi:
    """The handlers; `routes` gives them their paths.

    Args:
        queue: Where the jobs are.
        ready_workers: Names the workers that could take one.
        most_waiting: So many jobs may wait; one more is refused.
    """

    def __init__(
        self,
        queue: Queue,
        ready_workers: Callable[[], set[str]],
        most_waiting: int = QUEUE_LIMIT,
    ) -> None:
        self._queue = queue
        self._ready_workers = ready_workers
        self._most_waiting = most_waiting

    def routes(self, authorised: Callable[..., Awaitable[None]]) -> APIRouter:
        """Return Runpod's paths; `authorised` raises for a caller without the key."""
        router = APIRouter(prefix="/v2/{endpoint}", dependencies=[Depends(authorised)])
        router.post("/run", openapi_extra=_described_body())(self.run)
        router.post("/runsync", openapi_extra=_described_body())(self.runsync)
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
        """Queue a job and return at once; its result is kept 30 minutes."""
        job = self._submit(await _submission(request, RUN_BYTES), sync=False)
        return {"id": job.id, "status": job.status}

    async def runsync(self, request: Request, wait: Wait = DEFAULT_WAIT) -> Envelope:
        """Queue a job and return its result, or its status when that takes too long."""
        job = self._submit(await _submission(request, RUNSYNC_BYTES), sync=True)
        return await self.status_sync(job.id, wait)

    async def status(self, job_id: str, ttl: Ttl | None = None) -> Envelope:
        """Return a job as it is."""
        if ttl is not None:
            self._queue.store.limit(job_id, ttl / SECOND)
        return _known(self._queue.store.get(job_id)).envelope()

    async def status_sync(self, job_id: str, wait: Wait = DEFAULT_WAIT) -> Envelope:
        """Return a job when it has ended, or as it is after `wait`."""
        seconds = min(max(wait, SHORTEST_WAIT), LONGEST_WAIT) / SECOND
        return _known(await self._queue.finished(job_id, seconds)).envelope()

    async def stream(self, job_id: str) -> Envelope:
        """Return what a generator has yielded since the last call."""
        job, chunks = _known(await self._queue.streamed(job_id, STREAM_SECONDS))
        return {"status": job.status, "stream": chunks}

    async def cancel(self, job_id: str) -> Envelope:
        """Cancel a job that waits or runs."""
        job = _known(self._queue.cancel(job_id))
        return {"id": job.id, "status": job.status}

    async def retry(self, job_id: str) -> Envelope:
        """Queue a job anew that failed or timed out."""
        job, retried = _known(self._queue.retry(job_id))
        if not retried:
            raise ApiError(400, f"only a FAILED or TIMED_OUT job can be retried, not {job.status}")
        return {"id": job.id, "status": job.status}

    async def purge_queue(self) -> Envelope:
        """Cancel all jobs that wait."""
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
        if self._queue.store.waiting() >= self._most_waiting:
            raise ApiError(
                429, f"the queue is full: {self._most_waiting} jobs wait; try again later"
            )
        return self._queue.submit(submission, sync)


def _described_body() -> dict[str, Any]:
    """Describe what is read by hand, for its size is bounded before it is parsed."""
    schema = Submission.model_json_schema()
    # A reference would point into the whole page, where nothing of ours is.
    schema["properties"]["policy"] = schema.pop("$defs")["Policy"]
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


async def _submission(request: Request, most_bytes: int) -> Submission:
    try:
        return Submission.parse(await read(request, most_bytes))
    except InvalidBody as error:
        raise ApiError(400, str(error)) from None


async def read(request: Request, most_bytes: int) -> bytes:
    """Return a request's body.

    Raises:
        ApiError: It is larger than `most_bytes`; said as Runpod says it, with 400 and not 413.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most_bytes:
            raise ApiError(400, f"body: exceeded max body size of {most_bytes // MEBIBYTE}MiB")
    return bytes(body)


def _known(found: T | None) -> T:
    if found is None:
        raise ApiError(404, "job not found")
    return found
