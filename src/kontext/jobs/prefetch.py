"""When to take the next job: so early that the GPU never waits, so late that no job waits for it.

A worker that takes a job while its executor is busy keeps it from a worker that is idle. So one job
is taken ahead at most, and only when the executor will be free within a given time, judged by the
steps that the running edit has left and by how long its steps have taken. A job whose image is slow
to come is not the one ahead: another is taken beside it, up to a limit, or a few hosts that hang
would idle the GPU. A job that is off the executor, such as one in upload, keeps none away.
Everything here belongs to the event loop's thread.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

SLOW_SECONDS = 1.0
"""How long a job may take to be ready for the executor until another is taken beside it. Most
images are there sooner; the four slowest hosts then idle the GPU for 4 seconds, not for 60."""

MOST_BEFORE_EDIT = 8
"""Jobs that are not yet on the executor. Each may hold 20 MB of `input`, as much of an image's
file, and its pixels, which `kontext.images.decode_pool` limits."""


class Turn:
    """One job's way to the executor and off it."""

    def __init__(self, prefetch: "Prefetch", slow_seconds: float) -> None:
        self._prefetch = prefetch
        self._slow_at = time.monotonic() + slow_seconds
        self._ready = self._left = False
        self._steps = self._done = 0
        self._began = self._newest = 0.0

    def ready(self) -> None:
        """Note that the job has all that it needs on the executor."""
        self._ready = True
        self._prefetch.changed.set()

    def enter(self, steps: int) -> None:
        """Note that the job has got the executor, for an edit of `steps`.

        Its thread may have sent this just before the job was cancelled: then it comes too late.
        """
        if self._left:
            return
        self._steps, self._began = steps, time.monotonic()
        self._newest = self._began
        self._prefetch.entered(self)

    def step(self, done: int) -> None:
        """Note that `done` steps are done."""
        self._done, self._newest = done, time.monotonic()
        self._prefetch.changed.set()

    def leave(self) -> None:
        """Note that the job is off the executor, or will never get it."""
        self._left = True
        self._prefetch.left(self)

    @property
    def seconds_until_slow(self) -> float:
        """How long the job, not yet on the executor, counts as the one that is next there."""
        return math.inf if self._ready else self._slow_at - time.monotonic()

    @property
    def seconds_left(self) -> float:
        """How long the job will keep the executor; unknown, so for ever, before its first step."""
        if not self._done:
            return math.inf
        each = (self._newest - self._began) / self._done
        return (self._steps - self._done) * each - (time.monotonic() - self._newest)


class Prefetch:
    """Says when another job is wanted.

    Args:
        prefetch_seconds: How long before the executor is free; 0 takes none ahead.
        slow_seconds: How long a job that is not ready for the executor keeps others away.
    """

    def __init__(self, prefetch_seconds: float, slow_seconds: float = SLOW_SECONDS) -> None:
        self.changed = asyncio.Event()
        self._prefetch_seconds = prefetch_seconds
        self._slow_seconds = slow_seconds
        self._fetched = 0
        self._waiting: set[Turn] = set()
        self._on_executor: Turn | None = None

    async def wanted(self) -> None:
        """Return when another job is wanted."""
        while (seconds := self._seconds_until_wanted()) > 0:
            self.changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if seconds == math.inf else seconds):
                    await self.changed.wait()

    def fetched(self, jobs: int) -> None:
        """Note that `jobs` have been taken, which will each ask for a turn."""
        self._fetched += jobs

    @contextmanager
    def turn(self) -> Iterator[Turn]:
        """Give a job its turn; however it ends, it then keeps nobody waiting."""
        self._fetched = max(0, self._fetched - 1)  # in the SDK's local modes nobody fetches
        turn = Turn(self, self._slow_seconds)
        self._waiting.add(turn)
        self.changed.set()
        try:
            yield turn
        finally:
            turn.leave()

    def entered(self, turn: Turn) -> None:
        """Note that a job has got the executor."""
        self._waiting.discard(turn)
        self._on_executor = turn
        self.changed.set()

    def left(self, turn: Turn) -> None:
        """Note that a job is off the executor, or will never get it."""
        self._waiting.discard(turn)
        if self._on_executor is turn:
            self._on_executor = None
        self.changed.set()

    def _seconds_until_wanted(self) -> float:
        if self._fetched or len(self._waiting) >= MOST_BEFORE_EDIT:
            return math.inf
        slow = max((turn.seconds_until_slow for turn in self._waiting), default=0.0)
        return max(slow, self._seconds_until_executor_free())

    def _seconds_until_executor_free(self) -> float:
        if self._on_executor is None:
            return 0.0
        return self._on_executor.seconds_left - self._prefetch_seconds
