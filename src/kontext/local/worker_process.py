"""One slot for a worker: a real `handler.py` in production mode, replaced whenever it ends.

Knows processes, and the environment by which Runpod's SDK finds its control plane.
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
from kontext.local import GRACE_SECONDS
from kontext.local.jobs import SECOND
from kontext.local.queue import Queue

HUNG_SECONDS = 30.0
"""Silence after which a worker counts as hung."""

BOOT_SECONDS = 420.0
"""What a boot may take, as on Runpod."""

RESTART_SECONDS = 5.0
"""Pause after a worker that did not boot: the next would fail alike."""

WATCH_SECONDS = 1.0
"""How often a worker is looked at."""

log = logging.getLogger("kontext")


class WorkerProcess:
    """Keeps one worker running.

    Args:
        handler: The worker's program.
        environment: What it runs with, beside what `control_plane` gives it.
        queue: Where its jobs come from.
        hung_seconds: Silence after which it is killed and replaced.
        grace_seconds: What it gets to finish its jobs when it is asked to end.

    Attributes:
        id: Of the worker that runs, if one does.
        ready: Whether it has booted and asks for jobs.
    """

    def __init__(
        self,
        handler: Path,
        environment: Mapping[str, str],
        queue: Queue,
        hung_seconds: float = HUNG_SECONDS,
        grace_seconds: float = GRACE_SECONDS,
    ) -> None:
        self._handler = handler
        self._environment = environment
        self._queue = queue
        self._hung_seconds = hung_seconds
        self._grace_seconds = grace_seconds
        self._process: asyncio.subprocess.Process | None = None
        self._silence = 0.0
        self._asked_to_end = math.inf
        self._ending = asyncio.Event()
        self.id = ""
        self.ready = False

    @property
    def pid(self) -> int | None:
        """The process group of the worker, once there is one."""
        return self._process.pid if self._process else None

    def seen(self, fit: bool) -> None:
        """Note a sign of life, and whether the worker can serve: one that cannot boot asks too."""
        self.ready, self._silence = fit, 0.0

    async def run(self) -> None:
        """Start workers, one after another, until `end`."""
        while not self._ending.is_set():
            if not await self._one_life() and not self._ending.is_set():
                log.warning("it did not boot; the next starts in %g s", RESTART_SECONDS)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._ending.wait(), RESTART_SECONDS)

    def end(self) -> None:
        """Ask the worker to finish its job and end; `run` starts no other."""
        self._ending.set()
        self.replace()

    def replace(self) -> None:
        """Ask the worker to finish its job and end; `run` starts the next."""
        self._asked_to_end = time.monotonic()
        self._queue.drain(self.id)
        if self._process:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()

    async def _one_life(self) -> bool:
        """Run one worker to its end; tell whether it had booted."""
        self.id, self._silence, self._asked_to_end = secrets.token_hex(7), 0.0, math.inf
        self._process = await asyncio.create_subprocess_exec(
            *kill_with_parent([sys.executable, "-u", str(self._handler)]),
            stdin=asyncio.subprocess.PIPE,
            env={**self._environment, "RUNPOD_POD_ID": self.id},
            start_new_session=True,  # also: a Ctrl-C at the terminal is the server's to handle
        )
        if self._ending.is_set():  # while it was made
            self.replace()
        code = await self._exit_code(self._process)
        died = self._asked_to_end == math.inf
        log.log(logging.WARNING if died else logging.INFO, "worker %s ended: %d", self.id, code)
        self._queue.release(self.id, died)
        booted, self.ready, self.id = self.ready, False, ""
        return booted

    async def _exit_code(self, process: asyncio.subprocess.Process) -> int:
        """Wait for a worker's end, of which nothing it started remains."""
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    return await asyncio.wait_for(process.wait(), WATCH_SECONDS)
                self._silence += WATCH_SECONDS  # while we listened: the machine may have slept
                if reason := self._reason_to_kill():
                    log.warning("worker %s is killed: %s", self.id, reason)
                    _kill(process)
        finally:
            _kill(process)

    def _reason_to_kill(self) -> str | None:
        if time.monotonic() - self._asked_to_end > self._grace_seconds:
            return f"it was asked to end {self._grace_seconds:g} s ago"
        limit = self._hung_seconds if self.ready else BOOT_SECONDS
        return f"it has said nothing for {limit:g} s" if self._silence > limit else None


def _kill(process: asyncio.subprocess.Process) -> None:
    """Kill a worker and whatever it started, its heartbeat among them."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def control_plane(base_url: str, key: str, hung_seconds: float = HUNG_SECONDS) -> dict[str, str]:
    """Return what points the SDK at a server of ours.

    Args:
        base_url: `http://host:port/v2/endpoint`.
        key: What its worker routes want to see.
        hung_seconds: Several pings must fit into it; the SDK counts them in whole seconds.
    """
    return {
        "RUNPOD_WEBHOOK_GET_JOB": f"{base_url}/job-take/$ID?gpu=local",
        "RUNPOD_WEBHOOK_POST_OUTPUT": f"{base_url}/job-done/$RUNPOD_POD_ID/$ID?gpu=local",
        "RUNPOD_WEBHOOK_POST_STREAM": f"{base_url}/job-stream/$RUNPOD_POD_ID/$ID?gpu=local",
        "RUNPOD_WEBHOOK_PING": f"{base_url}/ping/$RUNPOD_POD_ID",
        "RUNPOD_PING_INTERVAL": str(max(1, round(hung_seconds / 6)) * SECOND),
        "RUNPOD_AI_API_KEY": key,
        "RUNPOD_ENDPOINT_ID": "local",
        # They judge a Runpod host: 8.8.8.8 in reach, a tenth of the disk free.
        "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
    }
