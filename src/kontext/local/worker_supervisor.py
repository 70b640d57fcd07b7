"""Keeps a worker running: starts `handler.py`, and replaces it when it dies, hangs or asks for it.

Knows processes, timeouts and the graceful period; does not know what a worker does with a job.
"""

import asyncio
import contextlib
import logging
import math
import os
import secrets
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from kontext.child_process import kill_with_parent
from kontext.local.queue import Queue
from kontext.local.shutdown import GRACE_SECONDS

HUNG_TIMEOUT_SECONDS = 30.0
"""Silence after which a worker counts as hung."""

BOOT_TIMEOUT_SECONDS = 420.0
"""How long a boot may take, as on Runpod."""

RESTART_PAUSE_SECONDS = 5.0
"""Pause after a worker that did not boot, because the next will probably fail for that cause."""

WATCH_INTERVAL_SECONDS = 1.0
"""Time between two checks of a worker."""

log = logging.getLogger("kontext")


class WorkerSupervisor:
    """Keeps one worker process running.

    Args:
        handler: Path of the worker's program.
        environment: All environment variables of the worker, but for its id.
        queue: The queue that the worker takes its jobs from.
        hung_timeout_seconds: Silence after which the worker is killed and replaced.
        grace_seconds: Time that the worker gets to finish its jobs when it is stopped or replaced.

    Attributes:
        id: Id of the running worker; empty if none runs.
        is_ready: Whether the worker has booted and asks for jobs.
    """

    def __init__(
        self,
        handler: Path,
        environment: Mapping[str, str],
        queue: Queue,
        hung_timeout_seconds: float = HUNG_TIMEOUT_SECONDS,
        grace_seconds: float = GRACE_SECONDS,
    ) -> None:
        self._handler = handler
        self._environment = environment
        self._queue = queue
        self._hung_timeout_seconds = hung_timeout_seconds
        self._grace_seconds = grace_seconds
        self._process: asyncio.subprocess.Process | None = None
        self._silent_seconds = 0.0
        self._terminated_at = math.inf
        self._stopped = asyncio.Event()
        self.id = ""
        self.is_ready = False

    @property
    def pid(self) -> int | None:
        """Id of the worker's process group, once a worker was started."""
        return self._process.pid if self._process else None

    def record_heartbeat(self, is_healthy: bool) -> None:
        """Note that the worker has called; one whose boot failed calls too, and is not healthy."""
        self.is_ready, self._silent_seconds = is_healthy, 0.0

    async def run(self) -> None:
        """Start one worker after another until `stop`."""
        while not self._stopped.is_set():
            if not await self._run_one_worker() and not self._stopped.is_set():
                log.warning("it did not boot; the next starts in %g s", RESTART_PAUSE_SECONDS)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopped.wait(), RESTART_PAUSE_SECONDS)

    def stop(self) -> None:
        """Let the worker finish its jobs within the graceful period; `run` starts no other."""
        self._stopped.set()
        self.replace()

    def replace(self) -> None:
        """Let the worker finish its jobs within the graceful period; `run` starts the next."""
        self._terminated_at = time.monotonic()
        self._queue.close_worker(self.id)
        if self._process:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()

    async def _run_one_worker(self) -> bool:
        """Run a worker until it ends; return whether it had booted."""
        process = self._process = await self._start()
        if self._stopped.is_set():  # while the process was started
            self.replace()
        code = await self._exit_code(process)
        died = self._terminated_at == math.inf
        log.log(logging.WARNING if died else logging.INFO, "worker %s ended: %d", self.id, code)
        self._queue.release(self.id, died)
        booted, self.is_ready, self.id = self.is_ready, False, ""
        return booted

    async def _start(self) -> asyncio.subprocess.Process:
        self.id, self._silent_seconds = secrets.token_hex(7), 0.0
        self._terminated_at = math.inf
        return await asyncio.create_subprocess_exec(
            *kill_with_parent([sys.executable, "-u", str(self._handler)]),
            stdin=asyncio.subprocess.PIPE,
            env={**self._environment, "RUNPOD_POD_ID": self.id},
            start_new_session=True,  # also: a Ctrl-C at the terminal is the server's to handle
        )

    async def _exit_code(self, process: asyncio.subprocess.Process) -> int:
        """Wait until the worker ends, kill it if it must, and kill what it leaves behind."""
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    return await asyncio.wait_for(process.wait(), WATCH_INTERVAL_SECONDS)
                # Counted, not read from a clock: nothing was received while the machine slept.
                self._silent_seconds += WATCH_INTERVAL_SECONDS
                if reason := self._reason_to_kill():
                    log.warning("worker %s is killed: %s", self.id, reason)
                    _kill_group(process)
        finally:
            _kill_group(process)

    def _reason_to_kill(self) -> str | None:
        if time.monotonic() - self._terminated_at > self._grace_seconds:
            return f"its graceful period of {self._grace_seconds:g} s is over"
        timeout = self._hung_timeout_seconds if self.is_ready else BOOT_TIMEOUT_SECONDS
        if self._silent_seconds > timeout:
            return f"it has said nothing for {timeout:g} s"
        return None


def _kill_group(process: asyncio.subprocess.Process) -> None:
    """Kill a worker and everything that it started, such as its heartbeat's process."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
