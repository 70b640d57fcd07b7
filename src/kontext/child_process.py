"""Starts child processes that are killed when this process ends, even by SIGKILL.

A child does not notice that its parent was killed. A shell between the two does: it waits for the
child, and for the end of a pipe that only the parent holds open. When the parent closes that pipe
or dies, the shell kills the child and everything that the child started, including processes that
are stopped or ignore SIGTERM. Knows processes and pipes; does not know the programs.
"""

import contextlib
import os
import re
import subprocess
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from threading import Thread

from kontext.errors import BootError

_SCRIPT = """
exec 3<&0
"$@" < /dev/null 3<&- &
child=$!
exec 2> /dev/null  # hide messages about the kills below
trap 'kill -TERM "$child"' TERM
(cat <&3 > /dev/null; kill -KILL 0) &
watch=$!
exec 3<&-
wait "$child"
code=$?
while kill -0 "$child"; do  # the trap interrupted the wait
    wait "$child"
    code=$?
done
kill "$watch"
exit "$code"
"""

GRACE_SECONDS = 5.0
"""The time that a server gets after SIGTERM before it is killed."""


def kill_with_parent(command: list[str]) -> list[str]:
    """Wrap `command` so that it is killed when this process exits.

    Start the returned command in a new session, because the whole session is killed, and with a
    pipe as standard input that stays open as long as the child shall live. The command passes on
    SIGTERM, and has the child's exit status and output.
    """
    return ["/bin/sh", "-c", _SCRIPT, "sh", *command]


@contextmanager
def child_server(
    command: list[str], listening: str, environment: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Run a server while the block runs.

    Args:
        command: The command that starts the server.
        listening: A regular expression for the line that the server writes to stderr once it
            listens; its group is the server's address.
        environment: The server's environment; None means that of this process.

    Yields:
        The server's address.

    Raises:
        BootError: The server ended before it listened.
    """
    with _start(command, environment) as process:
        if process.stdin:
            # A fork of this process, such as the SDK's heartbeat, would keep the pipe open.
            os.register_at_fork(after_in_child=process.stdin.close)
        log = process.stderr or ()
        # Read until it ends: a full pipe would block the server.
        drain = Thread(target=deque, args=(log, 0), daemon=True)
        try:
            address = _address(log, listening)
            drain.start()
            yield address
        finally:
            _end(process)
            if drain.ident:
                drain.join()


def _start(command: list[str], environment: Mapping[str, str] | None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        kill_with_parent(command),
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _address(log: Iterable[str], listening: str) -> str:
    line = "without a word"  # if the server wrote nothing
    for line in log:
        if match := re.search(listening, line):
            return match[1]
    raise BootError(f"the server did not start: {line.strip()}")


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_SECONDS)
    if process.stdin:
        process.stdin.close()  # which kills it
