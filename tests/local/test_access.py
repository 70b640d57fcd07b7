"""A server without an API key: web pages are refused, programs on this machine are answered."""

import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from kontext.errors import BootError
from kontext.local.server import Options, Server
from tests.local.conftest import Serve, running
from tests.local.worker import Worker

pytestmark = pytest.mark.asyncio(loop_scope="module")

JOB = {"input": {"prompt": "at night"}}
FRONT_END = "http://localhost:3000"

ROUTES = [
    ("POST", "/v2/any/run"),
    ("POST", "/v2/any/runsync"),
    ("GET", "/v2/any/status/{job}"),
    ("GET", "/v2/any/status-sync/{job}"),
    ("POST", "/v2/any/status-sync/{job}"),
    ("GET", "/v2/any/stream/{job}"),
    ("POST", "/v2/any/cancel/{job}"),
    ("POST", "/v2/any/retry/{job}"),
    ("POST", "/v2/any/purge-queue"),
    ("GET", "/v2/any/health"),
    ("GET", "/v2/any/job-take/worker-1"),
    ("GET", "/v2/any/job-stop/worker-1"),
    ("POST", "/v2/any/job-done/worker-1/{job}"),
    ("POST", "/v2/any/job-stream/worker-1/{job}"),
    ("GET", "/v2/any/ping/worker-1"),
    ("GET", "/docs"),
    ("GET", "/openapi.json"),
    ("GET", "/nowhere"),
]
CLIENTS_POSTS = [path for method, path in ROUTES[:10] if method == "POST"]

PAGES: dict[str, dict[str, str]] = {
    "foreign": {"Origin": "https://evil.example"},
    "sandboxed": {"Origin": "null"},
    "other-port": {"Origin": "http://127.0.0.1:3"},
    "rebound": {"Host": "evil.example"},
    "rebound-with-port": {"Host": "evil.example:8000", "Origin": "http://evil.example:8000"},
    "rebound-subdomain": {"Host": "localhost.evil.example"},
    "rebound-credentials": {"Host": "127.0.0.1:80@evil.example"},
    "no-host": {"Host": ""},
    "image": {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
    "image-of-other-port": {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"},
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    """A server without an API key, in which one job waits."""
    database = tmp_path_factory.mktemp("served") / "queue.sqlite"
    allowed = {"allowed_hosts": ["Laptop.local"], "allowed_origins": [FRONT_END]}
    async with running(database, **allowed) as server, httpx.AsyncClient() as client:
        await client.post(f"{server.url}/v2/any/run", json=JOB)
        yield server


async def send(server: Server, method: str, path: str, **more: Any) -> httpx.Response:
    """Send a request; `{job}` in the path is the id of the waiting job."""
    with server.queue.store.transaction() as session:
        job = session.connection().exec_driver_sql("SELECT id FROM jobs").scalar()
    async with httpx.AsyncClient(base_url=server.url, verify=False) as client:
        return await client.request(method, path.format(job=job), **more)


@pytest.mark.parametrize("headers", PAGES.values(), ids=PAGES)
@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_a_web_page_is_refused(
    served: Server, method: str, path: str, headers: dict[str, str]
) -> None:
    """Every route answers one sentence, which the page may not read, and changes nothing."""
    body = {"json": JOB} if method == "POST" else {}
    before = served.queue.store.counts()

    answer = await send(served, method, path, headers=headers, **body)

    assert (answer.status_code, answer.json().keys()) == (403, {"error"})
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert served.queue.store.counts() == before == {"IN_QUEUE": 1, "retried": 0}


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_a_preflight_is_refused(served: Server, method: str, path: str) -> None:
    """So a web page can send neither JSON nor a key."""
    headers = {
        "Origin": "https://evil.example",
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "content-type",
    }

    answer = await send(served, "OPTIONS", path, headers=headers)

    assert answer.status_code == 403
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "text/json", ""]
)
@pytest.mark.parametrize("path", CLIENTS_POSTS)
async def test_a_body_that_any_page_could_send_is_refused(
    served: Server, path: str, kind: str
) -> None:
    """This also covers old browsers, which do not send the request's origin."""
    headers = {"Content-Type": kind} if kind else {}

    answer = await send(served, "POST", path, content=b'{"input": {}}', headers=headers)

    assert answer.status_code == 415
    assert answer.json()["error"] == f"Content-Type must be application/json, got {kind!r}"
    assert served.queue.store.counts() == {"IN_QUEUE": 1, "retried": 0}


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8000", "[::1]:8000", "LAPTOP.local"])
async def test_a_name_of_this_machine_is_answered(served: Server, host: str) -> None:
    """The port may differ, as behind a tunnel or a container."""
    answer = await send(served, "GET", "/v2/any/health", headers={"Host": host})

    assert answer.status_code == 200


async def test_an_allowed_page_is_answered(served: Server) -> None:
    """Its preflight request is allowed, and it may read the answer."""
    origin = {"Origin": FRONT_END, "Sec-Fetch-Site": "same-site"}
    asked = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }

    preflight = await send(served, "OPTIONS", "/v2/any/run", headers={**origin, **asked})
    answer = await send(served, "GET", "/v2/any/health", headers=origin)

    assert (preflight.status_code, answer.status_code) == (200, 200)
    for allowed in (preflight, answer):
        assert allowed.headers["Access-Control-Allow-Origin"] == FRONT_END


async def test_the_servers_own_page_is_answered(served: Server) -> None:
    """The page at `/docs` can send requests."""
    headers = {"Origin": served.url, "Sec-Fetch-Site": "same-origin"}

    assert (await send(served, "GET", "/v2/any/health", headers=headers)).status_code == 200


@pytest.mark.parametrize(
    "headers", [{}, {"Content-Type": "Application/JSON; charset=utf-8"}], ids=str
)
async def test_a_command_line_is_answered(serve: Serve, headers: dict[str, str]) -> None:
    """A command line sends no origin, and without a body no content type."""
    async with serve() as server:
        await send(server, "POST", "/v2/any/purge-queue")
        answer = await send(server, "POST", "/v2/any/purge-queue", headers=headers)

    assert answer.json() == {"removed": 0, "status": "completed"}


@pytest.mark.parametrize("host", ["127.0.0.2", "::1", "localhost"])
async def test_a_worker_reaches_any_loopback_address(serve: Serve, host: str) -> None:
    """A worker calls the address that the server is bound to, and declares its JSON as a form."""
    try:
        socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError:
        pytest.skip(f"this machine has no {host}")
    async with serve(host=host) as server:
        job_id = (await send(server, "POST", "/v2/any/run", json=JOB)).json()["id"]
        worker = Worker(server)
        await worker.take()
        await worker.post(job_id, '{"output": 1}')

        assert server.queue.store.counts() == {"COMPLETED": 1, "retried": 0}


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "", "kontext.local"])
async def test_other_machines_need_a_key(tmp_path: Path, host: str) -> None:
    """Bound to an address that others can reach, the server does not start without a key."""
    with pytest.raises(BootError, match="clients need a key"):
        Server(Options(tmp_path / "queue.sqlite", workers=[], host=host))


@pytest.mark.parametrize(
    "wrong",
    [
        {"allowed_hosts": ["laptop:8000"]},
        {"allowed_hosts": ["http://laptop"]},
        {"allowed_hosts": [""]},
        {"allowed_origins": ["*"]},
        {"allowed_origins": ["http://*"]},
        {"allowed_origins": ["null"]},
        {"allowed_origins": ["localhost:3000"]},
        {"allowed_origins": ["http://localhost:3000/"]},
    ],
    ids=str,
)
async def test_a_malformed_host_or_origin_is_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    """The sentence names the flag, an example and the value."""
    flag = "--allow-host" if "allowed_hosts" in wrong else "--allow-origin"
    with pytest.raises(BootError) as refused:
        Server(Options(tmp_path / "queue.sqlite", workers=[], **wrong))

    assert str(refused.value).startswith(f"{flag} must be ")
    assert str(refused.value).endswith(f", got {next(iter(wrong.values()))[0]!r}")
