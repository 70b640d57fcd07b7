"""`python -m kontext.local`: starts the server from the command line."""

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
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from kontext.errors import BootError
from kontext.local.command_line import API_KEY, build_parser, check_arguments
from kontext.local.queue_unavailable import QueueUnavailable
from kontext.local.shutdown import stop_on_signals
from kontext.local.worker_environment import worker_environments
from kontext.storage import embedded_bucket

if TYPE_CHECKING:
    from kontext.local.server import Server

ENDPOINT = "black-forest-labs-flux-1-kontext-dev"

EXTRA = ("fastapi", "httptools", "sqlalchemy", "uvicorn")
"""Packages of the extra `kontext[local]`; a worker runs without some of them."""

INSTALL = "pip install 'kontext[local]'"

log = logging.getLogger("kontext")


def main() -> None:
    """Serve until Ctrl-C."""
    arguments = build_parser().parse_args()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while it starts: no traceback
    logging.basicConfig(level=logging.INFO, format="%(levelname)-7s| server | %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    if not all(map(find_spec, EXTRA)):
        sys.exit(f"kontext.local needs more packages; install them with: {INSTALL}")
    try:
        with ExitStack() as resources:
            asyncio.run(_serve(arguments, resources))
    except (BootError, OSError, OverflowError, QueueUnavailable) as error:
        sys.exit(f"The server cannot start: {error}")


async def _serve(arguments: argparse.Namespace, resources: ExitStack) -> None:
    from kontext.local.server import Options, Server  # noqa: PLC0415 - slow

    check_arguments(arguments)
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
            max_waiting_jobs=arguments.queue_limit,
        )
    )
    stop = stop_on_signals()
    print(_startup_message(server, arguments, has_key=api_key is not None), flush=True)
    await server.run(stop)


def _api_key(file: Path | None) -> str | None:
    """Return the key that clients must send; `None` if neither file nor variable names one."""
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
    """Lock the directory, because a second server would run the jobs of the first one again."""
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
