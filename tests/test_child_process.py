"""A child ends with its parent, whatever happens to either."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from kontext.child_process import kill_with_parent

DEAF = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.fork()  # as the SDK's heartbeat, it is in the same session
os.write(1, b"%d\\n" % os.getpid())  # at once, for both write to one pipe
time.sleep(600)
"""
POLITE = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
print("ready", flush=True)
time.sleep(600)
"""

Tied = subprocess.Popen[str]


def start(program: str) -> Tied:
    """Start a Python program on a lifeline."""
    return subprocess.Popen(
        kill_with_parent([sys.executable, "-c", program]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def line(process: Tied) -> str:
    return process.stdout.readline().strip() if process.stdout else ""


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; a zombie does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def all_end(pids: list[int]) -> bool:
    """Give processes half a minute to end."""
    for _ in range(1500):
        if not any(map(is_alive, pids)):
            return True
        time.sleep(0.02)
    return False


@pytest.fixture
def deaf() -> Iterator[tuple[Tied, list[int]]]:
    """A child deaf to SIGTERM that has a child of its own."""
    with start(DEAF) as process:
        yield process, [int(line(process)), int(line(process))]
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def test_the_exit_status_is_the_childs() -> None:
    """A shell lies between, and does not show."""
    with start("import sys; sys.exit(5)") as process:
        assert process.wait(30) == 5


def test_sigterm_reaches_the_child_and_its_answer_comes_back() -> None:
    """It may end in its own way and time."""
    with start(POLITE) as process:
        assert line(process) == "ready"
        process.terminate()

        assert process.wait(30) == 7


@pytest.mark.hostile("kills")
def test_the_end_of_the_pipe_kills_the_child_and_what_it_started(
    deaf: tuple[Tied, list[int]],
) -> None:
    """Nothing of it remains, though it ignores SIGTERM."""
    process, pids = deaf
    process.terminate()
    assert all(map(is_alive, pids))
    if process.stdin:
        process.stdin.close()

    assert all_end([process.pid, *pids])


@pytest.mark.hostile("kills")
def test_a_stopped_child_ends_as_well(deaf: tuple[Tied, list[int]]) -> None:
    """A signal that stops it does not save it."""
    process, pids = deaf
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    if process.stdin:
        process.stdin.close()

    assert all_end([process.pid, *pids])


@pytest.mark.hostile("kills")
def test_a_killed_parent_takes_the_child_along(tmp_path: Path) -> None:
    """It had no chance to close the pipe."""
    program = f"""
import subprocess, sys, time
from kontext.child_process import kill_with_parent
child = subprocess.Popen(
    kill_with_parent([sys.executable, "-c", {DEAF!r}]),
    stdin=subprocess.PIPE,
    start_new_session=True,
)
time.sleep(600)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
    ) as parent:
        pids = [int(line(parent)), int(line(parent))]
        parent.kill()

        assert all_end(pids)
