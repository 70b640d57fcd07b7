"""A server in a process of its own, which ends when this process does, however that ends."""

import contextlib
import os
import re
import subprocess
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from threading import Thread

from kontext.errors import BootError
from kontext.lifeline import tied

GRACE_SECONDS = 5.0
"""What a server gets to end by itself before it is killed."""


@contextmanager
def child_server(
    command: list[str], listening: str, environment: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Run a server while the block runs.

    Args:
        command: What starts it.
        listening: Regular expression of what it writes to stderr once it listens, with its
            address as the group.
        environment: Its own; ours, when None.

    Yields:
        Its address.

    Raises:
        BootError: It ended before it listened.
    """
    with subprocess.Popen(
        tied(command),
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        if process.stdin:
            # A fork, such as the SDK's heartbeat, would keep the pipe open after our death.
            os.register_at_fork(after_in_child=process.stdin.close)
        log = process.stderr or ()
        # Read to its end: a full pipe would stop the server.
        drain = Thread(target=deque, args=(log, 0), daemon=True)
        try:
            address = _address(log, listening)
            drain.start()
            yield address
        finally:
            _end(process)
            if drain.ident:
                drain.join()


def _address(log: Iterable[str], listening: str) -> str:
    line = "without a word"
    for line in log:
        if match := re.search(listening, line):
            return match[1]
    raise BootError(f"the server did not start: {line.strip()}")


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_SECONDS)
    if process.stdin:
        process.stdin.close()  # and so kill it
