"""Runpod's API v2 as clients see it, over HTTP: paths, envelopes, limits, keys and errors."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
import pytest_asyncio

from kontext.local.client_api import MAX_RUN_BYTES, MAX_RUNSYNC_BYTES
from kontext.local.jobs import DAY, SECOND
from kontext.local.server import Server
from tests.local.conftest import client_of, running
from tests.local.worker import Worker

pytestmark = pytest.mark.asyncio(loop_scope="module")

EDIT = {"input": {"prompt": "at night", "image": "https://example.com/bluebird.png"}}
OUTPUT = {"image_url": "https://example.com/edited.png", "cost": 0.031457}
UUID = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
BUCKET = {"accessId": "id", "accessSecret": "hush", "bucketName": "b", "endpointUrl": "http://s3"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def open_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    """A server without an API key, to which no test submits a valid job."""
    async with running(tmp_path_factory.mktemp("open") / "queue.sqlite") as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def refused(open_server: Server) -> AsyncIterator[httpx.AsyncClient]:
    """A client of that server, whose requests are all refused."""
    async with client_of(open_server) as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def locked_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    """A server that requires the key `rpa_KEY`."""
    database = tmp_path_factory.mktemp("locked") / "queue.sqlite"
    async with running(database, api_key="rpa_KEY") as server:
        yield server


async def run(client: httpx.AsyncClient, **more: object) -> str:
    """Return the id of a new job."""
    answer = await client.post("/run", json={**EDIT, **more})
    job_id: str = answer.json()["id"]
    return job_id


async def status(client: httpx.AsyncClient, job_id: str) -> dict[str, Any]:
    """Return the answer of `/status`."""
    answer = await client.get(f"/status/{job_id}")
    assert answer.status_code == 200
    envelope: dict[str, Any] = answer.json()
    return envelope


async def failed(client: httpx.AsyncClient, worker: Worker) -> str:
    """Return the id of a failed job."""
    job_id = await run(client)
    await worker.take()
    await worker.finish(job_id, error="no")
    return job_id


# ---- The documented operations


async def test_run_answers_at_once(client: httpx.AsyncClient) -> None:
    """The answer is the id and the state only, even while there is no worker."""
    answer = await client.post("/run", json=EDIT)

    assert answer.status_code == 200
    assert answer.json().keys() == {"id", "status"}
    assert re.fullmatch(f"{UUID}-u1", answer.json()["id"])
    assert await status(client, answer.json()["id"]) == answer.json()
    assert answer.json()["status"] == "IN_QUEUE"


@pytest.mark.parametrize(
    ("posted", "shown"),
    [
        ({"output": OUTPUT}, {"status": "COMPLETED", "output": OUTPUT}),
        ({"error": "no"}, {"status": "FAILED", "error": "no"}),
        ({"error": "no", "output": [1]}, {"status": "FAILED", "error": "no", "output": [1]}),
        ({"error": {"why": 1}}, {"status": "FAILED", "error": '{"why": 1}'}),
        ({"output": None}, {"status": "COMPLETED"}),
        ({}, {"status": "COMPLETED"}),
        ({"output": "déjà vu \x00 🐦"}, {"status": "COMPLETED", "output": "déjà vu \x00 🐦"}),
    ],
    ids=["output", "error", "both", "error object", "null", "nothing", "text"],
)
async def test_runsync_returns_the_documented_envelope(
    client: httpx.AsyncClient, worker: Worker, posted: dict[str, Any], shown: dict[str, Any]
) -> None:
    """Times are whole milliseconds, an error is a string, no field is null or undocumented."""
    waiting = asyncio.create_task(client.post("/runsync", json=EDIT))
    job = await worker.take()
    await worker.finish(job["id"], **posted)

    answer = await waiting
    envelope = answer.json()

    assert answer.status_code == 200
    assert re.fullmatch(f"sync-{UUID}-u1", envelope["id"])
    assert envelope.pop("id") == job["id"]
    assert envelope.pop("workerId") == "worker-1"
    assert type(envelope.pop("delayTime")) is type(envelope.pop("executionTime")) is int
    assert envelope == shown


async def test_runsync_waits_no_longer_than_asked(client: httpx.AsyncClient) -> None:
    """After `wait` it answers with the current state, and the job stays in the queue."""
    answer = await client.post("/runsync", params={"wait": 1000}, json=EDIT)

    assert answer.json() == {"id": answer.json()["id"], "status": "IN_QUEUE"}
    assert await status(client, answer.json()["id"]) == answer.json()


async def test_progress_is_the_output_while_it_runs(
    client: httpx.AsyncClient, worker: Worker
) -> None:
    """A running job shows the last progress of its worker, and no `executionTime`."""
    job_id = await run(client)
    await worker.take()
    before = await status(client, job_id)
    await worker.progress(job_id, {"step": 1, "steps": 28, "percent": 3})

    assert before.keys() == {"id", "status", "delayTime", "workerId"}
    assert await status(client, job_id) == {
        **before, "output": {"step": 1, "steps": 28, "percent": 3}
    }  # fmt: skip
    await worker.progress(job_id, None)
    assert await status(client, job_id) == before


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_status_sync_answers_when_the_job_ends(
    client: httpx.AsyncClient, worker: Worker, method: str
) -> None:
    """The request is held until there is a result; both official SDKs wait so."""
    job_id = await run(client)
    waiting = asyncio.create_task(client.request(method, f"/status-sync/{job_id}"))
    await worker.take()
    assert not waiting.done()
    await worker.finish(job_id, output=OUTPUT)

    assert (await waiting).json() == await status(client, job_id)
    assert (await waiting).json()["output"] == OUTPUT


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_status_sync_is_held_for_its_wait(client: httpx.AsyncClient, method: str) -> None:
    """A shorter wait than the documented second lasts a second, as clients ask again at once."""
    job_id = await run(client)
    loop = asyncio.get_running_loop()

    before = loop.time()
    answer = await client.request(method, f"/status-sync/{job_id}", params={"wait": 1})

    assert answer.json()["status"] == "IN_QUEUE"
    assert loop.time() - before >= 1


async def test_a_stream_is_read_as_it_comes(client: httpx.AsyncClient, worker: Worker) -> None:
    """Each chunk is read once and in order; after the end the list is empty."""
    job_id = await run(client)
    await worker.take()
    await worker.stream(job_id, "a")
    await worker.stream(job_id, "b")
    first = await client.get(f"/stream/{job_id}")
    waiting = asyncio.create_task(client.get(f"/stream/{job_id}"))
    await worker.stream(job_id, "c")
    second = await waiting
    await worker.finish(job_id)
    last = await client.get(f"/stream/{job_id}")

    assert first.json() == {"status": "IN_PROGRESS", "stream": [{"output": "a"}, {"output": "b"}]}
    assert second.json() == {"status": "IN_PROGRESS", "stream": [{"output": "c"}]}
    assert last.json() == {"status": "COMPLETED", "stream": []}


async def test_cancelling_a_waiting_job(client: httpx.AsyncClient, worker: Worker) -> None:
    """No worker gets the job."""
    job_id = await run(client)

    answer = await client.post(f"/cancel/{job_id}")

    assert answer.json() == {"id": job_id, "status": "CANCELLED"}
    assert await status(client, job_id) == answer.json()
    other = await run(client)
    assert (await worker.take())["id"] == other


async def test_cancelling_a_running_job(client: httpx.AsyncClient, worker: Worker) -> None:
    """The worker is told at once to stop the job, and its result is ignored."""
    job_id = await run(client)
    await worker.take()
    stopping = asyncio.create_task(worker.stops())
    await worker.progress(job_id, {"percent": 3})

    answer = await client.post(f"/cancel/{job_id}")
    await worker.finish(job_id, output=OUTPUT)

    assert answer.json() == {"id": job_id, "status": "CANCELLED"}
    assert await stopping == [job_id]
    envelope = await status(client, job_id)
    assert envelope.keys() == {"id", "status", "delayTime", "executionTime", "workerId"}
    assert envelope["status"] == "CANCELLED"


async def test_cancelling_a_finished_job_changes_nothing(
    client: httpx.AsyncClient, worker: Worker
) -> None:
    """The answer is the job's state, and its result is kept."""
    job_id = await failed(client, worker)
    before = await status(client, job_id)

    answer = await client.post(f"/cancel/{job_id}")

    assert answer.json() == {"id": job_id, "status": "FAILED"}
    assert await status(client, job_id) == before


async def test_retrying_a_failed_job(client: httpx.AsyncClient, worker: Worker) -> None:
    """The job runs again with the same id and input, and without its old output."""
    job_id = await failed(client, worker)

    answer = await client.post(f"/retry/{job_id}")

    assert answer.json() == {"id": job_id, "status": "IN_QUEUE"}
    assert await status(client, job_id) == answer.json()
    assert await worker.take() == {"id": job_id, **EDIT}


async def test_only_a_failure_can_be_retried(client: httpx.AsyncClient, worker: Worker) -> None:
    """In any other state, the answer is a 400 that names the state."""
    job_id = await run(client)
    for state in ("IN_QUEUE", "IN_PROGRESS", "COMPLETED"):
        answer = await client.post(f"/retry/{job_id}")
        assert answer.status_code == 400
        assert state in answer.json()["error"]
        if state == "IN_QUEUE":
            await worker.take()
        else:
            await worker.finish(job_id, output=OUTPUT)


async def test_purging_the_queue(client: httpx.AsyncClient, worker: Worker) -> None:
    """Waiting jobs are cancelled and counted; a running job goes on."""
    running = await run(client)
    await worker.take()
    waiting = [await run(client) for _ in range(2)]

    answer = await client.post("/purge-queue")

    assert answer.json() == {"removed": 2, "status": "completed"}
    assert (await status(client, running))["status"] == "IN_PROGRESS"
    assert {(await status(client, job_id))["status"] for job_id in waiting} == {"CANCELLED"}


@pytest.mark.parametrize("path", ["/cancel/{}", "/purge-queue"])
async def test_a_client_that_waits_for_a_cancelled_job_is_answered(
    client: httpx.AsyncClient, path: str
) -> None:
    """The answer comes at once, not at the end of the wait."""
    job_id = await run(client)
    waiting = asyncio.create_task(client.get(f"/status-sync/{job_id}"))
    await client.get("/health")  # so that the other request arrives first
    await client.post(path.format(job_id))

    async with asyncio.timeout(20):
        assert (await waiting).json() == {"id": job_id, "status": "CANCELLED"}


async def test_health_counts_jobs_and_workers(client: httpx.AsyncClient, worker: Worker) -> None:
    """The answer has the documented counts and no others."""
    again = await failed(client, worker)
    await failed(client, worker)
    await client.post(f"/retry/{again}")
    await worker.take()
    await run(client)

    answer = await client.get("/health")

    assert answer.json() == {
        "jobs": {"completed": 0, "failed": 1, "inProgress": 1, "inQueue": 1, "retried": 1},
        "workers": {"idle": 0, "running": 1},
    }


async def test_any_endpoint_id_is_accepted(server: Server, worker: Worker) -> None:
    """Clients can keep the endpoint id that they use with Runpod."""
    async with httpx.AsyncClient(base_url=f"{server.url}/v2") as client:
        answer = await client.post("/black-forest-labs-flux-1-kontext-dev/run", json=EDIT)
        found = await client.get(f"/another_one/status/{answer.json()['id']}")

    assert found.json() == answer.json()


async def test_a_client_can_shorten_the_ttl(client: httpx.AsyncClient) -> None:
    """After the milliseconds of `/status?ttl=`, as documented, the job is unknown."""
    job_id = await run(client)
    assert (await client.get(f"/status/{job_id}", params={"ttl": 1})).status_code == 200

    answer = await client.get(f"/status-sync/{job_id}")

    assert (answer.status_code, answer.json()) == (404, {"error": "job not found"})


# ---- The body of a submission


@pytest.mark.hostile("API abuses")
@pytest.mark.parametrize("path", ["/run", "/runsync"])
@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("input=1", "not JSON"),
        ('{"input": {"x": NaN}}', "not JSON"),
        ('{"input": {"x": -Infinity}}', "not JSON"),
        ('{"input": {"x": 1e400}}', "finite"),
        ('{"input": {"x": "\\ud800"}}', "not JSON"),
        ('{"input": ' + "[" * 100_000, "not JSON"),
        ("[]", "JSON object"),
        ("null", "JSON object"),
        ("{}", "input is required"),
        ('{"input": null}', "input: "),
        ('{"input": "a"}', "input: "),
        ('{"input": [1]}', "input: "),
        ('{"input": {}, "webhook": "no URL"}', "webhook: "),
        ('{"input": {}, "webhook": "file:///etc/passwd"}', "webhook: "),
        ('{"input": {}, "policy": 1}', "policy: "),
        ('{"input": {}, "policy": {"lowPriority": "yes"}}', "policy.lowPriority: "),
        ('{"input": {}, "s3Config": "b"}', "s3Config: "),
    ],
)
async def test_a_malformed_body_is_refused(
    refused: httpx.AsyncClient, path: str, body: str, sentence: str
) -> None:
    """The answer is a 400 with one sentence that names the field; no job is queued."""
    answer = await refused.post(path, content=body)

    assert answer.status_code == 400
    assert answer.json().keys() == {"error"}
    assert sentence in answer.json()["error"]
    assert (await refused.get("/health")).json()["jobs"]["inQueue"] == 0


@pytest.mark.hostile("API abuses")
@pytest.mark.parametrize(
    ("field", "least", "most"),
    [("executionTimeout", 5 * SECOND, 7 * DAY), ("ttl", 10 * SECOND, 7 * DAY)],
)
async def test_a_policy_keeps_within_its_limits(
    client: httpx.AsyncClient, field: str, least: int, most: int
) -> None:
    """The documented limits are accepted; a millisecond beyond them is answered with 400."""
    codes = {
        value: (await client.post("/run", json={**EDIT, "policy": {field: value}})).status_code
        for value in (least - 1, least, most, most + 1)
    }

    assert list(codes.values()) == [400, 200, 200, 400]


async def test_low_priority_waits_for_the_others(client: httpx.AsyncClient, worker: Worker) -> None:
    """A job with `lowPriority` runs after all others, as documented."""
    low = await run(client, policy={"lowPriority": True})
    high = await run(client)

    assert [(await worker.take())["id"] for _ in range(2)] == [high, low]


async def test_no_client_can_read_a_bucket_again(client: httpx.AsyncClient, worker: Worker) -> None:
    """`s3Config` is passed to the worker unchanged and shown by no route for clients."""
    job_id = await run(client, s3Config=BUCKET)
    answers = [await client.get(f"/status/{job_id}")]
    assert await worker.take() == {"id": job_id, **EDIT, "s3Config": BUCKET}
    answers += [await client.get(f"/status/{job_id}")]
    await worker.finish(job_id, error="no")
    answers += [await client.get(f"/status-sync/{job_id}"), await client.get(f"/stream/{job_id}")]
    answers += [await client.post(f"/retry/{job_id}"), await client.post(f"/cancel/{job_id}")]

    assert not any("hush" in answer.text for answer in answers)


@pytest.mark.hostile("API abuses")
async def test_unknown_siblings_of_input_are_ignored(client: httpx.AsyncClient) -> None:
    """Runpod's own JavaScript example sends `timeout` beside `input`."""
    answer = await client.post("/run", json={**EDIT, "timeout": 60000, "webhook": None})

    assert answer.status_code == 200


def padded(size: int) -> bytes:
    """Return a valid body of `size` bytes."""
    frame = json.dumps({"input": {"image": ""}})
    return frame.replace('""', f'"{"a" * (size - len(frame))}"').encode()


async def in_pieces(body: bytes) -> AsyncIterator[bytes]:
    """Yield a body in chunks, so that it is sent without Content-Length."""
    for start in range(0, len(body), 2**16):
        yield body[start : start + 2**16]


@pytest.mark.parametrize(
    ("path", "most"), [("/run", MAX_RUN_BYTES), ("/runsync", MAX_RUNSYNC_BYTES)]
)
async def test_a_body_of_the_largest_size_is_accepted(
    client: httpx.AsyncClient, worker: Worker, path: str, most: int
) -> None:
    """A body of exactly the limit reaches the worker whole."""
    body = padded(most)
    sending = asyncio.create_task(client.post(path, content=body))
    job = await worker.take()
    await worker.finish(job["id"])

    assert job["input"] == json.loads(body)["input"]
    assert (await sending).status_code == 200


@pytest.mark.hostile("API abuses")
@pytest.mark.parametrize("send", [bytes, in_pieces], ids=["whole", "chunked"])
@pytest.mark.parametrize(
    ("path", "size", "sentence"),
    [
        ("/run", MAX_RUN_BYTES + 1, "body: exceeded max body size of 10MiB"),
        ("/runsync", MAX_RUNSYNC_BYTES + 1, "body: exceeded max body size of 20MiB"),
    ],
    ids=["run", "runsync"],
)
async def test_a_larger_body_is_refused(
    refused: httpx.AsyncClient, send: Callable[[bytes], Any], path: str, size: int, sentence: str
) -> None:
    """One byte more is answered with 400 and Runpod's own sentence, which its clients know."""
    answer = await refused.post(path, content=send(padded(size)))

    assert (answer.status_code, answer.json()) == (400, {"error": sentence})


@pytest.mark.hostile("API abuses")
@pytest.mark.parametrize(
    "body",
    ['{"output": NaN}', '{"output": 1e400}', '{"output": "\\ud800"}', "output", "[]"],
)
async def test_a_result_that_is_not_json_fails_the_job(
    client: httpx.AsyncClient, worker: Worker, body: str
) -> None:
    """Python's `json` writes and reads invalid JSON; no client gets it."""
    job_id = await run(client)
    await worker.take()
    await worker.post(job_id, body)

    envelope = await status(client, job_id)

    assert envelope["status"] == "FAILED"
    assert isinstance(envelope["error"], str)
    assert "output" not in envelope


# ---- Refusals


@pytest.mark.hostile("API abuses")
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/status/x"),
        ("GET", "/status/x?ttl=1000"),
        ("GET", "/status-sync/x"),
        ("POST", "/status-sync/x"),
        ("GET", "/stream/x"),
        ("POST", "/cancel/x"),
        ("POST", "/retry/x"),
    ],
)
async def test_an_unknown_job_is_answered_with_404(
    refused: httpx.AsyncClient, method: str, path: str
) -> None:
    """The answer comes at once, also from routes that wait."""
    answer = await refused.request(method, path)

    assert (answer.status_code, answer.json()) == (404, {"error": "job not found"})


@pytest.mark.hostile("API abuses")
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/run"),
        ("GET", "/runsync"),
        ("POST", "/status/x"),
        ("DELETE", "/status-sync/x"),
        ("POST", "/stream/x"),
        ("GET", "/cancel/x"),
        ("GET", "/retry/x"),
        ("GET", "/purge-queue"),
        ("POST", "/health"),
    ],
)
async def test_a_wrong_method_is_answered_with_405(
    refused: httpx.AsyncClient, method: str, path: str
) -> None:
    """The answer names the right method."""
    answer = await refused.request(method, path)

    assert answer.status_code == 405
    assert answer.json().keys() == {"error"}
    assert answer.headers["Allow"]


@pytest.mark.hostile("API abuses")
@pytest.mark.parametrize("path", ["/runsync?wait=soon", "/status/x?ttl=0", "/nothing"])
async def test_a_wrong_address_is_refused_in_a_sentence(
    refused: httpx.AsyncClient, path: str
) -> None:
    """Unknown paths and malformed parameters are answered like every other error."""
    answer = await refused.request("POST" if "run" in path else "GET", path, json=EDIT)

    assert answer.status_code == (404 if path == "/nothing" else 400)
    assert answer.json().keys() == {"error"}


@pytest.mark.hostile("API abuses")
@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Authorization": "Bearer rpa_KEY"}, 200),
        ({"authorization": "bearer rpa_KEY"}, 200),
        ({"authorization": "rpa_KEY"}, 200),
        ({"Authorization": "Bearer rpa_KEYS"}, 401),
        ({"Authorization": "Basic rpa_KEY"}, 401),
        ({"Authorization": "Bearer"}, 401),
        ({"Authorization": "Bearer clé"}, 401),
        ({"Authorization": ""}, 401),
        ({}, 401),
    ],
    ids=lambda value: str(value.get("Authorization", value)) if isinstance(value, dict) else None,
)
async def test_a_client_needs_the_key_when_one_is_set(
    locked_server: Server, headers: dict[str, str], code: int
) -> None:
    """The key is sent bare or as a bearer token; without it no job is queued."""
    encoded = {name.encode(): value.encode() for name, value in headers.items()}
    async with client_of(locked_server, headers=encoded) as client:
        before = locked_server.queue.store.counts()
        answers = [await client.get("/health"), await client.post("/run", json=EDIT)]

    assert {answer.status_code for answer in answers} == {code}
    assert (locked_server.queue.store.counts() == before) == (code == 401)
    if code == 401:
        assert all(answer.json().keys() == {"error"} for answer in answers)


@pytest.mark.hostile("API abuses")
@pytest.mark.parametrize("which", ["open_server", "locked_server"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/job-take/worker-1"),
        ("GET", "/job-stop/worker-1"),
        ("POST", "/job-done/worker-1/x"),
        ("POST", "/job-stream/worker-1/x"),
        ("GET", "/ping/worker-1"),
    ],
)
async def test_workers_routes_are_not_for_clients(
    open_server: Server, locked_server: Server, which: str, method: str, path: str
) -> None:
    """Neither the clients' key nor no key gives access, also where clients need no key."""
    server = {"open_server": open_server, "locked_server": locked_server}[which]
    async with client_of(server, headers={"Authorization": "Bearer rpa_KEY"}) as client:
        answer = await client.request(method, path)

    assert (answer.status_code, answer.json().keys()) == (401, {"error"})


# ---- Browsers, and the description


async def test_a_browser_with_the_key_may_call_from_anywhere(locked_server: Server) -> None:
    """A preflight request allows the documented request; the page can read answers and errors."""
    headers = {"Origin": "https://app.example.com", "Host": "evil.example"}
    async with client_of(locked_server, headers=headers) as client:
        preflight = await client.options(
            "/runsync",
            headers={
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "authorization,content-type",
            },
        )
        key = {"Authorization": "Bearer rpa_KEY"}
        answers = [
            await client.post("/run", json=EDIT, headers=key),
            await client.get("/status/x", headers=key),
        ]

    assert preflight.status_code == 200
    assert "POST" in preflight.headers["Access-Control-Allow-Methods"]
    allowed = preflight.headers["Access-Control-Allow-Headers"].lower()
    assert {"authorization", "content-type"} <= set(re.split(", *", allowed))
    assert [answer.status_code for answer in answers] == [200, 404]
    for answer in [preflight, *answers]:
        assert answer.headers["Access-Control-Allow-Origin"] == "*"


async def test_the_description_names_what_clients_may_call(open_server: Server) -> None:
    """It has every documented operation, no route of the workers, and no dangling reference."""
    async with httpx.AsyncClient() as client:
        description = (await client.get(f"{open_server.url}/openapi.json")).json()
        page = await client.get(f"{open_server.url}/docs")

    assert page.status_code == 200
    operations = {
        path.removeprefix("/v2/{endpoint}"): set(methods)
        for path, methods in description["paths"].items()
    }
    assert operations == {
        "/run": {"post"},
        "/runsync": {"post"},
        "/status/{job_id}": {"get"},
        "/status-sync/{job_id}": {"get"},
        "/stream/{job_id}": {"get"},
        "/cancel/{job_id}": {"post"},
        "/retry/{job_id}": {"post"},
        "/purge-queue": {"post"},
        "/health": {"get"},
    }
    for reference in re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(description)):
        target = description
        for name in reference.split("/"):
            target = target[name]
