"""Start the local servers that `local_server.py` compares, each in its own process."""

import asyncio
import os
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

from kontext.local.server import Options, Server

FAKE_HANDLER = Path(__file__).with_name("fake_handler.py")

ControlPlane = Mapping[str, str]
"""The environment variables by which a worker finds the server."""


@asynccontextmanager
async def our_server(sdk_workers: int = 0) -> AsyncIterator[tuple[str, ControlPlane]]:
    """Run our server in a process during the block.

    Args:
        sdk_workers: Number of workers that run `fake_handler.py` by Runpod's SDK.

    Returns:
        The server's URL, and what a worker needs to reach it.
    """
    spawn = get_context("spawn")
    parent, child = spawn.Pipe()
    with tempfile.TemporaryDirectory() as directory:
        process = spawn.Process(target=_serve, args=(Path(directory), sdk_workers, child))
        process.start()
        child.close()
        try:
            yield await asyncio.to_thread(parent.recv)
        finally:
            parent.close()
            await asyncio.to_thread(process.join)


def _serve(directory: Path, sdk_workers: int, pipe: Connection) -> None:
    """Serve until the other end of the pipe is closed."""

    async def serve() -> None:
        environment = {**os.environ, "RUNPOD_SKIP_GPU_CHECK": "true", "RUNPOD_LOG_LEVEL": "ERROR"}
        workers = [environment] * sdk_workers
        server = Server(Options(directory / "queue.sqlite", workers, FAKE_HANDLER))
        stop = asyncio.Event()
        pipe.send((server.url, server.control_plane))
        closed = asyncio.create_task(asyncio.to_thread(pipe.poll, None))
        closed.add_done_callback(lambda _: stop.set())
        await server.run(stop)

    asyncio.run(serve())


@asynccontextmanager
async def rp_serve_api() -> AsyncIterator[str]:
    """Run the SDK's own local server in a process during the block, and return its URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(FAKE_HANDLER), "--rp_serve_api", "--rp_api_host", "127.0.0.1"),
        *("--rp_api_port", str(port)),
        env={**os.environ, "RUNPOD_LOG_LEVEL": "ERROR"},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        await _listening(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        await process.wait()


async def _listening(port: int) -> None:
    """Wait until the port accepts connections."""
    async with asyncio.timeout(60):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.1)
            else:
                writer.close()
                return
