"""Runs a server with fake workers, in this process or as the command, and a client of it."""

import asyncio
import base64
import contextlib
import io
import os
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
from PIL import Image

from kontext.local.server import Options, Server

FAKE_HANDLER = Path(__file__).with_name("fake_handler.py")
INHERITED = ("PATH", "HOME", "COVERAGE_PROCESS_CONFIG")
"""Variables that a worker process gets from the tests; the last one is set by `make coverage`."""

PATIENCE = 60.0
"""How long a test waits for anything, in seconds."""


def _image() -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "olive").save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


EDIT = {"prompt": "x", "image": _image(), "size": "256*256", "num_inference_steps": 1}
LONG_EDIT = {**EDIT, "prompt": "take your time", "num_inference_steps": 10}
"""It takes one second and reports progress ten times."""


class Ledger:
    """Reads the file in which the fake workers log what they do.

    Args:
        path: Path of the file; it is created.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.touch()

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a worker that writes to this ledger."""
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        return {**inherited, "LEDGER": str(self._path), "RUNPOD_SKIP_GPU_CHECK": "true"}

    @property
    def boots(self) -> int:
        """How many workers have started."""
        return self._subjects()["boot"]

    @property
    def stored(self) -> Counter[str]:
        """How often each job was stored."""
        subjects = self._subjects()
        del subjects["boot"]
        return subjects

    def _subjects(self) -> Counter[str]:
        return Counter(line.split()[0] for line in self._path.read_text().splitlines())


class Client:
    """Calls a server's API.

    Args:
        url: Address of the server.
    """

    def __init__(self, url: str) -> None:
        self._http = httpx.AsyncClient(base_url=f"{url}/v2/any", timeout=PATIENCE)

    async def send(self, data: dict[str, Any]) -> str:
        """Queue a job; return its id."""
        answer = await self._http.post("/run", json={"input": data})
        return str(answer.raise_for_status().json()["id"])

    async def status(self, job_id: str) -> dict[str, Any]:
        """Return a job in its current state."""
        return dict((await self._http.get(f"/status/{job_id}")).raise_for_status().json())

    async def finished(self, job_id: str) -> dict[str, Any]:
        """Return a job when it has ended."""
        wait = {"wait": round(PATIENCE * 1000)}
        answer = await self._http.get(f"/status-sync/{job_id}", params=wait)
        return dict(answer.raise_for_status().json())

    async def running(self, job_id: str) -> dict[str, Any]:
        """Return a job once its worker has reported a step of it."""
        async with asyncio.timeout(PATIENCE):
            while "output" not in (job := await self.status(job_id)):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            return job

    async def cancel(self, job_id: str) -> None:
        """Cancel a job."""
        (await self._http.post(f"/cancel/{job_id}")).raise_for_status()

    async def health(self) -> dict[str, Any]:
        """Return the answer of `/health`."""
        return dict((await self._http.get("/health")).raise_for_status().json())


@dataclass(frozen=True)
class Served:
    """A running server."""

    server: Server
    client: Client
    ledger: Ledger


@asynccontextmanager
async def serving(directory: Path, workers: int = 1, **options: Any) -> AsyncIterator[Served]:
    """Run a server with fake workers in this process while the block runs."""
    ledger = Ledger(directory / "ledger")
    options = {"handler": FAKE_HANDLER, **options}
    server = Server(
        Options(directory / "queue.sqlite", workers=[ledger.environment] * workers, **options)
    )
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(server.run(stop))
        try:
            yield Served(server, Client(server.url), ledger)
        finally:
            stop.set()


@dataclass(frozen=True)
class Command:
    """`python -m kontext.local` in a process of its own, with fake workers.

    Attributes:
        directory: Directory of all files; the command line of every process contains it.
        url: Address of the server.
        client: A client of the server.
        ledger: The ledger of the fake workers.
        process: The server's process.
        output: Path of the file with everything that the processes print.
    """

    directory: Path
    url: str
    client: Client
    ledger: Ledger
    process: asyncio.subprocess.Process
    output: Path

    async def exit_code(self) -> int:
        """Wait until the server's process ends; return its exit code."""
        async with asyncio.timeout(PATIENCE):
            return await self.process.wait()

    async def leaves_nothing(self) -> bool:
        """Wait until no process of the command is left."""
        await until(lambda: not processes(self.directory))
        return True


@asynccontextmanager
async def commanded(
    directory: Path, port: int, workers: int = 1, *flags: str, **environment: str
) -> AsyncIterator[Command]:
    """Run the command while the block runs; wait until it has printed its startup message."""
    handler = directory / "handler.py"
    if not handler.exists():
        handler.symlink_to(FAKE_HANDLER)
    ledger, output = Ledger(directory / "ledger"), directory / "output"
    arguments = ["--data", str(directory / "data"), "--handler", str(handler)]
    with output.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "kontext.local", *arguments),
            *("--port", str(port), "--workers", str(workers), *flags),
            env={**ledger.environment, **environment},
            stdout=file,
            stderr=file,
        )
    try:
        await until(lambda: "Ctrl-C" in output.read_text() or process.returncode is not None)
        url = f"http://127.0.0.1:{port}"
        yield Command(directory, url, Client(url), ledger, process, output)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def free_port() -> int:
    """Return a port that is free."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


async def until(holds: Callable[[], bool]) -> None:
    """Wait until a condition holds of which no event tells."""
    async with asyncio.timeout(PATIENCE):
        while not holds():  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(0.02)


def processes(mark: object) -> list[str]:
    """Return the command lines on this machine that contain `mark`."""
    return [args for _, args in _processes() if str(mark) in args]


def group(number: int | None) -> list[str]:
    """Return the command lines of a process group; a zombie has none."""
    return [args for pgid, args in _processes() if pgid == number]


def _processes() -> list[tuple[int, str]]:
    """Return group and command line of every process that is not a zombie."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if args := " ".join(process.cmdline()):
                found.append((os.getpgid(process.pid), args))
    return found
