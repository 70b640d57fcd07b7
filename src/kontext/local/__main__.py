"""`python -m kontext.local`: the server from the command line."""

import argparse
import asyncio
import fcntl
import logging
import os
import shlex
import signal
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from kontext.errors import BootError
from kontext.local import GRACE_SECONDS, QUEUE_LIMIT
from kontext.local.errors import QueueUnavailable
from kontext.local.worker_environment import worker_environments
from kontext.storage import embedded_bucket

if TYPE_CHECKING:
    from kontext.local.server import Server

ENDPOINT = "black-forest-labs-flux-1-kontext-dev"
API_KEY = "KONTEXT_API_KEY"
"""The variable that may hold the key: the command line is for everyone on the machine to read."""

log = logging.getLogger("kontext")


def main() -> None:
    """Serve until Ctrl-C."""
    arguments = _parser().parse_args()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the server takes it: without a traceback
    logging.basicConfig(level=logging.INFO, format="%(levelname)-7s| server | %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        with ExitStack() as resources:
            asyncio.run(_serve(arguments, resources))
    except (BootError, OSError, OverflowError, QueueUnavailable) as error:
        sys.exit(f"The server cannot start: {error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m kontext.local",
        description="Runpod's API v2 on this machine, with real workers: one for each GPU, or one "
        "on the CPU with stand-ins. For development and a single box; for scale there is Runpod.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to bind")
    parser.add_argument("--port", type=int, default=8000, help="port to bind; 0 takes a free one")
    parser.add_argument(
        "--api-key-file",
        type=Path,
        help=f"file with the API key that clients must send; else the variable {API_KEY}; without "
        "either only this machine is answered, and no web page",
    )
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="without a key: another name of this machine that may stand in `Host`; repeatable",
    )
    parser.add_argument(
        "--allow-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="without a key: web pages that may call, such as http://localhost:3000; repeatable",
    )
    parser.add_argument("--workers", type=int, help="how many; default one for each GPU, or one")
    parser.add_argument("--handler", type=Path, default="handler.py", help="the workers' program")
    parser.add_argument(
        "--grace",
        type=float,
        default=GRACE_SECONDS,
        help="seconds in which a worker that is told to end may finish its jobs; "
        "what it does not finish is queued again",
    )
    parser.add_argument(
        "--queue-limit",
        type=int,
        default=QUEUE_LIMIT,
        help="jobs that may wait; one more is answered 429",
    )
    parser.add_argument("--data", type=Path, default=".kontext", help="where queue and files live")
    return parser


async def _serve(arguments: argparse.Namespace, resources: ExitStack) -> None:
    from kontext.local.server import Options, Server  # noqa: PLC0415 - slow
    from kontext.local.web import stop_on_signals  # noqa: PLC0415

    if arguments.workers is not None and arguments.workers < 1:
        raise BootError("--workers must be at least 1")
    if not arguments.grace >= 0:
        raise BootError(f"--grace must be 0 or more seconds, got {arguments.grace:g}")
    if arguments.queue_limit < 1:
        raise BootError(f"--queue-limit must be at least 1, got {arguments.queue_limit}")
    if not arguments.handler.is_file():
        raise BootError(f"there is no {arguments.handler}; name the workers' program by --handler")
    api_key, environment = _api_key(arguments.api_key_file), dict(os.environ)
    environment.pop(API_KEY, None)  # no worker needs it
    _lock_data_directory(arguments.data, resources)
    bucket: Mapping[str, str] = {}
    if not (environment.get("BUCKET_NAME") or environment.get("BUCKET_ENDPOINT_URL")):
        bucket = resources.enter_context(
            embedded_bucket.serve(arguments.data / "bucket", state=arguments.data / "bucket.json")
        )
    server = Server(
        Options(
            database=arguments.data / "queue.sqlite",
            workers=worker_environments({**environment, **bucket}, arguments.workers),
            handler=arguments.handler,
            host=arguments.host,
            port=arguments.port,
            api_key=api_key,
            allowed_hosts=arguments.allow_host,
            allowed_origins=arguments.allow_origin,
            grace_seconds=arguments.grace,
            most_waiting=arguments.queue_limit,
        )
    )
    stop = stop_on_signals()
    print(_startup_message(server, arguments, has_key=api_key is not None), flush=True)
    await server.run(stop)


def _api_key(file: Path | None) -> str | None:
    """Return the key that clients must send, if there is one; none is empty."""
    if file is None:
        return os.environ.get(API_KEY, "").strip() or None
    if file.stat().st_mode & 0o077:
        log.warning("other users may read %s; keep them out by chmod 600", file)
    try:
        key = file.read_text().strip()
    except UnicodeDecodeError:
        raise BootError(f"--api-key-file must be text, and {file} is none") from None
    if not key:
        raise BootError(f"--api-key-file must hold a key, and {file} is empty")
    return key


def _lock_data_directory(directory: Path, resources: ExitStack) -> None:
    """Keep a second server off the directory: it would hand out the first one's jobs again."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)  # prompts, keys and images
    lock = resources.enter_context((directory / "lock").open("w"))
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BootError(f"another server uses {directory}; choose one by --data") from None


def _startup_message(server: "Server", arguments: argparse.Namespace, *, has_key: bool) -> str:
    file = arguments.api_key_file
    key = f"$(cat {shlex.quote(str(file))})" if file else f"${API_KEY}"
    header = f'\n  -H "Authorization: Bearer {key}" \\' if has_key else ""
    body = shlex.quote(f"@{arguments.handler.with_name('test_input.json')}")
    return f"""
Runpod's API v2 is at {server.url}/v2/{{any endpoint}}, its description at {server.url}/docs.
{len(server.workers)} worker(s) are starting; jobs wait until one is ready. Try:

curl -X POST {server.url}/v2/{ENDPOINT}/runsync \\{header}
  -H "Content-Type: application/json" \\
  -d {body}

Ctrl-C lets the workers finish their jobs, then stops everything.
"""


if __name__ == "__main__":
    main()
