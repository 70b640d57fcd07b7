"""The routes that Runpod's SDK calls from inside a worker."""

import httpx
import pytest

from kontext.local.client_api import MAX_RUNSYNC_BYTES
from kontext.local.server import Server
from tests.local.worker import Worker

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def give_job(client: httpx.AsyncClient, worker: Worker) -> str:
    """Submit a job, let the worker take it, and return its id."""
    job_id = str((await client.post("/run", json={"input": {}})).json()["id"])
    assert (await worker.take())["id"] == job_id
    return job_id


async def envelope(client: httpx.AsyncClient, job_id: str) -> dict[str, object]:
    """Return a job as a client sees it, without times."""
    shown = (await client.get(f"/status/{job_id}")).json()
    return {name: shown[name] for name in ("status", "output", "error") if name in shown}


@pytest.mark.parametrize(
    ("answer", "seen"),
    [
        pytest.param({"output": {"a": 1}}, {"status": "COMPLETED", "output": {"a": 1}}, id="done"),
        pytest.param({"output": None}, {"status": "COMPLETED"}, id="nothing-null"),
        pytest.param({}, {"status": "COMPLETED"}, id="nothing-at-all"),
        pytest.param({"error": "why"}, {"status": "FAILED", "error": "why"}, id="failed"),
        pytest.param(
            {"error": {"a": 1}}, {"status": "FAILED", "error": '{"a": 1}'}, id="error-a-string"
        ),
        pytest.param(
            {"error": "why", "output": {"a": 1}},
            {"status": "FAILED", "error": "why", "output": {"a": 1}},
            id="failed-with-output",
        ),
        pytest.param(
            {"output": 1, "stopPod": True}, {"status": "COMPLETED", "output": 1}, id="stop-pod"
        ),
    ],
)
async def test_a_result_is_shown_as_runpod_shows_it(
    client: httpx.AsyncClient, worker: Worker, answer: dict[str, object], seen: dict[str, object]
) -> None:
    """Only `output` and `error` are shown; neither is null, and the error is a string."""
    job_id = await give_job(client, worker)
    await worker.finish(job_id, **answer)

    assert await envelope(client, job_id) == seen


@pytest.mark.hostile("API abuses")
async def test_a_result_that_is_too_large_fails_its_job(
    client: httpx.AsyncClient, worker: Worker
) -> None:
    """The result is not refused: the SDK would drop it silently, and the job would hang."""
    job_id = await give_job(client, worker)
    await worker.finish(job_id, output="x" * MAX_RUNSYNC_BYTES)
    seen = await envelope(client, job_id)

    assert seen["status"] == "FAILED"
    assert str(seen["error"]).startswith("The worker's result could not be taken: ")


@pytest.mark.hostile("API abuses")
async def test_a_worker_without_the_key_is_refused(server: Server) -> None:
    """Each server has a new key, so workers of a former server are refused too."""
    url = server.control_plane["RUNPOD_WEBHOOK_PING"]
    async with httpx.AsyncClient() as stranger:
        answer = await stranger.get(url, headers={"Authorization": "Bearer guessed"})

    assert answer.status_code == 401
