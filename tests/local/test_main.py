"""`python -m kontext.local`: its start, its options and its shutdown."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from kontext.settings import Settings
from kontext.storage import embedded_bucket
from kontext.storage.bucket import Bucket
from kontext.storage.result_file import ResultFile
from tests.local.served import EDIT, LONG_EDIT, commanded, free_port, processes

KEY = "rpa_KEY_of_these_tests"
FILE = ResultFile("job-1", "png", b"pixels", "image/png", {})


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "kontext.local", *map(str, arguments)],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
async def test_a_shutdown_lets_the_workers_finish_their_jobs(
    number: signal.Signals, tmp_path: Path
) -> None:
    """The running job's result is recorded, waiting jobs are kept, no process is left."""
    port = free_port()
    async with commanded(tmp_path, port) as command:
        longer = {**LONG_EDIT, "num_inference_steps": 30}  # or the waiting job would be prefetched
        job_id = await command.client.send(longer)
        await command.client.running(job_id)
        waiting = await command.client.send(EDIT)
        command.process.send_signal(number)

        assert await command.exit_code() == 0
        assert await command.leaves_nothing()
    assert command.ledger.stored == {job_id: 1}
    async with commanded(tmp_path, port) as command:
        assert (await command.client.status(job_id))["status"] == "COMPLETED"
        assert (await command.client.finished(waiting))["status"] == "COMPLETED"


async def test_a_client_that_waits_is_answered_at_shutdown(tmp_path: Path) -> None:
    """The answer is the job's current state; the job stays in the queue."""
    async with commanded(tmp_path, free_port()) as command:
        first = await command.client.send(LONG_EDIT)
        await command.client.running(first)
        rest = [await command.client.send(LONG_EDIT) for _ in range(3)]
        answer = asyncio.create_task(command.client.finished(rest[-1]))
        await asyncio.sleep(0.2)
        command.process.send_signal(signal.SIGTERM)

        assert (await answer)["status"] == "IN_QUEUE"
        assert await command.exit_code() == 0


async def test_a_second_ctrl_c_ends_the_server_at_once(tmp_path: Path) -> None:
    """The server does not wait for the worker; no traceback is printed, no process is left."""
    async with commanded(tmp_path, free_port()) as command:
        job_id = await command.client.send({**LONG_EDIT, "num_inference_steps": 50})
        await command.client.running(job_id)
        for _ in range(2):
            command.process.send_signal(signal.SIGINT)
            await asyncio.sleep(0.5)

        assert await command.exit_code() == -signal.SIGINT
        assert await command.leaves_nothing()
    assert "Traceback" not in command.output.read_text()
    assert not command.ledger.stored


@pytest.mark.hostile("kills")
async def test_a_killed_server_leaves_no_process(tmp_path: Path) -> None:
    """Workers, their heartbeats and the bucket are killed with it."""
    async with commanded(tmp_path, free_port(), workers=2) as command:
        await command.client.running(await command.client.send(LONG_EDIT))
        command.process.kill()

        assert await command.leaves_nothing()


async def test_links_of_results_outlive_a_restart(tmp_path: Path) -> None:
    """The bucket keeps its keys and its port, in a file that no other user may read."""
    memory = tmp_path / "data/bucket.json"
    port = free_port()
    async with commanded(tmp_path, port) as command:
        environment = httpx.Response(200, text=memory.read_text()).json()
        settings = {name.lower(): value for name, value in environment.items()}
        link = await Bucket.from_settings(Settings.load(**settings)).store(FILE)
        command.process.kill()
        await command.leaves_nothing()
    async with commanded(tmp_path, port), httpx.AsyncClient() as client:
        answer = await client.get(link)

    assert (answer.status_code, answer.content) == (200, FILE.content)
    assert memory.stat().st_mode & 0o077 == 0
    assert (tmp_path / "data").stat().st_mode & 0o077 == 0


def test_a_bucket_whose_port_is_taken_takes_another(tmp_path: Path) -> None:
    """Its keys remain."""
    memory = tmp_path / "memory"
    with embedded_bucket.serve(tmp_path / "bucket", state=memory) as former:
        pass
    address = urlsplit(former["BUCKET_ENDPOINT_URL"])
    with (
        socket.create_server((address.hostname, address.port)),
        embedded_bucket.serve(tmp_path / "bucket", state=memory) as environment,
    ):
        pass

    assert environment.keys() == former.keys()
    assert {name for name in former if environment[name] != former[name]} == {"BUCKET_ENDPOINT_URL"}


@pytest.mark.hostile("kills")
@pytest.mark.parametrize("kept", ["", '{"BUCKET_NA'], ids=["empty", "cut-off"])
def test_a_bucket_whose_memory_is_damaged_starts_empty(kept: str, tmp_path: Path) -> None:
    """A server killed while it wrote must start again."""
    (tmp_path / "memory").write_text(kept)
    with embedded_bucket.serve(tmp_path / "bucket", state=tmp_path / "memory") as environment:
        Bucket.from_settings(
            Settings.load(**{name.lower(): value for name, value in environment.items()})
        ).check()


@pytest.mark.parametrize("where", ["nowhere", "variable", "file"])
async def test_the_printed_request_can_be_pasted(where: str, tmp_path: Path) -> None:
    """It is answered. It names the key's file or variable; no command line contains the key."""
    (tmp_path / "a key").write_text(f"{KEY}\n")
    (tmp_path / "a key").chmod(0o600)
    flags = ["--api-key-file", str(tmp_path / "a key")] if where == "file" else []
    environment = {"KONTEXT_API_KEY": KEY} if where == "variable" else {}
    body = tmp_path / "test_input.json"
    body.write_text(httpx.Request("POST", "http://x", json={"input": EDIT}).content.decode())
    async with commanded(tmp_path, free_port(), 1, *flags, **environment) as command:
        printed = command.output.read_text()
        assert not processes(KEY)
        assert not processes(bucket_secret(tmp_path))
        curl = printed[printed.index("curl ") : printed.index("\n\nCtrl-C")]
        shell = await asyncio.create_subprocess_shell(
            f"{curl} --silent --show-error",
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, **environment},
        )
        answer, _ = await shell.communicate()

        async with httpx.AsyncClient() as client:
            without_key = await client.get(f"{command.url}/v2/any/health")

    assert httpx.Response(200, content=answer).json()["status"] == "COMPLETED"
    assert without_key.status_code == (200 if where == "nowhere" else 401)
    assert KEY not in command.output.read_text()


def bucket_secret(directory: Path) -> str:
    """Return the secret of the embedded bucket."""
    kept = httpx.Response(200, content=(directory / "data/bucket.json").read_bytes()).json()
    return str(kept["BUCKET_SECRET_ACCESS_KEY"])


async def test_a_key_that_others_may_read_is_warned_of(tmp_path: Path) -> None:
    """The server starts nevertheless: secrets that a container mounts are often readable."""
    (tmp_path / "key").write_text(KEY)
    (tmp_path / "key").chmod(0o644)
    async with commanded(tmp_path, free_port(), 1, "--api-key-file", f"{tmp_path}/key") as command:
        printed = command.output.read_text()

    assert f"other users may read {tmp_path}/key; keep them out by chmod 600" in printed


async def test_hosts_and_origins_are_allowed_by_flags(tmp_path: Path) -> None:
    """Both flags may be given more than once."""
    flags = [*("--allow-host", "a", "--allow-host", "b"), *("--allow-origin", "http://c:3000")]
    headers = [{"Host": "a"}, {"Host": "b:80"}, {"Origin": "http://c:3000"}, {"Host": "d"}]
    async with (
        commanded(tmp_path, free_port(), 1, *flags) as command,
        httpx.AsyncClient(base_url=command.url) as client,
    ):
        answers = [await client.get("/v2/any/health", headers=header) for header in headers]

    assert [answer.status_code for answer in answers] == [200, 200, 200, 403]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        pytest.param(["--port", "{taken}"], "Address already in use", id="port-taken"),
        pytest.param(["--port", "70000"], "port must be 0-65535", id="no-port"),
        pytest.param(["--handler", "nowhere.py"], "there is no nowhere.py", id="no-handler"),
        pytest.param(["--workers", "0"], "--workers must be at least 1", id="no-workers"),
        pytest.param(["--host", "0.0.0.0"], "clients need a key; set KONTEXT_API_KEY", id="open"),
        pytest.param(["--allow-host", "a:1"], "--allow-host must be a name", id="no-host"),
        pytest.param(["--allow-origin", "*"], "--allow-origin must be such as", id="no-origin"),
        pytest.param(["--api-key-file", "nowhere"], "No such file", id="no-key-file"),
        pytest.param(["--api-key-file", "{empty}"], "must hold a key", id="empty-key"),
        pytest.param(["--api-key-file", "{binary}"], "must be text", id="binary-key"),
        pytest.param(["--grace", "nan"], "--grace must be 0 or more seconds", id="no-grace"),
    ],
)
def test_an_error_at_start_is_one_sentence(
    arguments: list[str], sentence: str, tmp_path: Path
) -> None:
    """The sentence names what to change."""
    handler = tmp_path / "handler.py"
    handler.touch()
    empty, binary = tmp_path / "empty", tmp_path / "binary"
    for file, content in ((empty, b"\n"), (binary, b"\xff")):
        file.write_bytes(content)
        file.chmod(0o600)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = run(
            *("--handler", handler, "--data", tmp_path / "data"),
            *(argument.format(taken=port, empty=empty, binary=binary) for argument in arguments),
        )

    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr.startswith("The server cannot start: ")
    assert sentence in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_a_damaged_queue_is_one_sentence(tmp_path: Path) -> None:
    """It contains SQLite's own message."""
    (tmp_path / "handler.py").touch()
    (tmp_path / "queue.sqlite").write_text("This is no database, " * 100)
    ended = run("--handler", tmp_path / "handler.py", "--data", tmp_path, "--port", 0)

    assert ended.returncode == 1
    assert ended.stderr == (
        "The server cannot start: the queue is unavailable: file is not a database; "
        "try again later\n"
    )


async def test_two_servers_cannot_share_their_data(tmp_path: Path) -> None:
    """A second server would run the jobs of the first one again."""
    async with commanded(tmp_path, free_port()):
        ended = run("--data", tmp_path / "data", "--handler", tmp_path / "handler.py", "--port", 0)

    assert ended.returncode == 1
    assert ended.stderr == (
        f"The server cannot start: another server uses {tmp_path / 'data'}; choose one by --data\n"
    )


def test_help_does_not_import_the_server() -> None:
    """No slow package is imported to print it."""
    program = "import sys, kontext.local.__main__; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()

    assert not {"uvicorn", "fastapi", "sqlalchemy", "torch", "runpod"} & set(loaded)
    assert "--port" in run("--help").stdout
