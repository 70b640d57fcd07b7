"""A worker in this process: each method calls one route as Runpod's SDK does."""

from typing import Any

import httpx

from kontext.local.server import Server


class Worker:
    """A worker that does only what a test calls.

    Args:
        server: The server whose jobs the worker takes.
        name: The worker's id, which clients read as `workerId`.
    """

    def __init__(self, server: Server, name: str = "worker-1") -> None:
        self.name = name
        self._environment = server.control_plane
        self._client = httpx.AsyncClient(
            headers={"Authorization": self._environment["RUNPOD_AI_API_KEY"]}, timeout=30
        )

    async def take(self) -> dict[str, Any]:
        """Take a job; fail if none comes."""
        job = await self.poll()
        assert job is not None, "no job came"
        return job

    async def poll(self) -> dict[str, Any] | None:
        """Ask for a job once; return `None` if none comes."""
        answer = await self._call("GET", "RUNPOD_WEBHOOK_GET_JOB", self.name)
        return answer.json() if answer.status_code == 200 else None

    async def progress(self, job_id: str, output: object) -> None:
        """Post progress."""
        await self._post("RUNPOD_WEBHOOK_POST_OUTPUT", job_id, status="IN_PROGRESS", output=output)

    async def stream(self, job_id: str, output: object) -> None:
        """Post a generator's chunk."""
        await self._post("RUNPOD_WEBHOOK_POST_STREAM", job_id, output=output)

    async def finish(self, job_id: str, **answer: object) -> None:
        """Post a result: `output`, `error`, or both."""
        await self._post("RUNPOD_WEBHOOK_POST_OUTPUT", job_id, **answer)

    async def post(self, job_id: str, body: str) -> None:
        """Post a result as it is, JSON or not."""
        await self._call("POST", "RUNPOD_WEBHOOK_POST_OUTPUT", job_id, content=body)

    async def stops(self) -> list[str]:
        """Return the ids of the jobs to stop, as soon as there are any."""
        url = self._url("RUNPOD_WEBHOOK_GET_JOB", self.name).replace("job-take", "job-stop")
        job_ids: list[str] = (await self._client.get(url)).json()["jobsToStop"]
        return job_ids

    async def _post(self, variable: str, job_id: str, **body: object) -> None:
        await self._call("POST", variable, job_id, json=body)

    async def _call(self, method: str, variable: str, name: str, **body: Any) -> httpx.Response:
        answer = await self._client.request(method, self._url(variable, name), **body)
        return answer.raise_for_status()

    def _url(self, variable: str, name: str) -> str:
        template = self._environment[variable]
        return template.replace("$RUNPOD_POD_ID", self.name).replace("$ID", name)
