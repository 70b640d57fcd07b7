"""Child processes end with their parent."""

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

Child = subprocess.Popen[str]


def start(program: str) -> Child:
    """Start a Python program that is killed with this process."""
    return subprocess.Popen(
        kill_with_parent([sys.executable, "-c", program]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def line(process: Child) -> str:
    return process.stdout.readline().strip() if process.stdout else ""


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; a zombie does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def all_end(pids: list[int]) -> bool:
    """Wait up to half a minute until all processes have ended; tell whether they have."""
    for _ in range(1500):
        if not any(map(is_alive, pids)):
            return True
        time.sleep(0.02)
    return False


@pytest.fixture
def deaf() -> Iterator[tuple[Child, list[int]]]:
    """A child that ignores SIGTERM and has started a child itself."""
    with start(DEAF) as process:
        yield process, [int(line(process)), int(line(process))]
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def test_the_exit_status_is_that_of_the_child() -> None:
    """The shell in between does not change it."""
    with start("import sys; sys.exit(5)") as process:
        assert process.wait(30) == 5


def test_sigterm_reaches_the_child_and_its_answer_comes_back() -> None:
    """It can shut down gracefully."""
    with start(POLITE) as process:
        assert line(process) == "ready"
        process.terminate()

        assert process.wait(30) == 7


@pytest.mark.hostile("kills")
def test_the_end_of_the_pipe_kills_the_child_and_what_it_started(
    deaf: tuple[Child, list[int]],
) -> None:
    """No process is left, although they ignore SIGTERM."""
    process, pids = deaf
    process.terminate()
    assert all(map(is_alive, pids))
    if process.stdin:
        process.stdin.close()

    assert all_end([process.pid, *pids])


@pytest.mark.hostile("kills")
def test_a_stopped_child_ends_as_well(deaf: tuple[Child, list[int]]) -> None:
    """Stopped processes are killed too."""
    process, pids = deaf
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    if process.stdin:
        process.stdin.close()

    assert all_end([process.pid, *pids])


@pytest.mark.hostile("kills")
def test_the_child_of_a_killed_parent_is_killed(tmp_path: Path) -> None:
    """The system closes the pipe of a killed process."""
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
