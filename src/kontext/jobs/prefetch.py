"""When to fetch the next job: early enough for the GPU, late enough not to keep it from others.

A job that waits in this worker while its GPU is busy could run on an idle worker. So at most one
job is prefetched, and only when the GPU will be free within a given time. That time is estimated
from the steps that the running edit has left and from how long its steps have taken.

A job whose image takes long to arrive does not count as prefetched: another is fetched beside it,
up to a limit, because otherwise a few hosts that hang would leave the GPU idle. A job that has left
the GPU, such as one in upload, delays no fetch. All of this runs on the event loop's thread.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

SLOW_SECONDS = 1.0
"""How long a job may take to be ready for the GPU until another is fetched beside it. Most images
arrive sooner; the four slowest hosts then leave the GPU idle for 4 seconds instead of 60."""

MAX_JOBS_BEFORE_EDIT = 8
"""Jobs that are not yet on the GPU. Each may hold 20 MB of `input`, as much of an image's file, and
its pixels, which `kontext.images.decode_pool` limits."""


class TrackedJob:
    """How far one job is on its way through the GPU.

    Args:
        prefetch: The tracker to notify of each change.
        slow_seconds: How long the job may prepare until it counts as slow.
    """

    def __init__(self, prefetch: "Prefetch", slow_seconds: float) -> None:
        self._prefetch = prefetch
        self._slow_at = time.monotonic() + slow_seconds
        self._ready = self._ended = False
        self._steps = self._steps_done = 0
        self._edit_began = self._last_step = 0.0

    def set_ready(self) -> None:
        """Note that the job has everything that its edit needs."""
        self._ready = True
        self._prefetch.changed.set()

    def start_edit(self, steps: int) -> None:
        """Note that the job got the GPU, for an edit of `steps`; ignored once the job has ended.

        The GPU's thread may have sent this just before the job was cancelled.
        """
        if self._ended:
            return
        self._steps, self._edit_began = steps, time.monotonic()
        self._last_step = self._edit_began
        self._prefetch.give_gpu_to(self)

    def set_steps_done(self, done: int) -> None:
        """Note that `done` steps are done."""
        self._steps_done, self._last_step = done, time.monotonic()
        self._prefetch.changed.set()

    def end_edit(self) -> None:
        """Note that the job has left the GPU, or will never get it."""
        self._ended = True
        self._prefetch.forget(self)

    @property
    def seconds_until_slow(self) -> float:
        """Seconds until the job counts as slow; infinite once it is ready for the GPU."""
        return math.inf if self._ready else self._slow_at - time.monotonic()

    @property
    def seconds_left(self) -> float:
        """Estimated seconds until the job leaves the GPU; infinite before its first step."""
        if not self._steps_done:
            return math.inf
        seconds_a_step = (self._last_step - self._edit_began) / self._steps_done
        steps_left = self._steps - self._steps_done
        return steps_left * seconds_a_step - (time.monotonic() - self._last_step)


class Prefetch:
    """Says when the next job is to be fetched.

    Args:
        prefetch_seconds: How long before the GPU is free; with 0, only when it is free.
        slow_seconds: How long a job that is not ready for the GPU delays the next fetch.

    Attributes:
        changed: Set whenever the answer may have changed.
    """

    def __init__(self, prefetch_seconds: float, slow_seconds: float = SLOW_SECONDS) -> None:
        self.changed = asyncio.Event()
        self._prefetch_seconds = prefetch_seconds
        self._slow_seconds = slow_seconds
        self._fetched = 0
        self._before_edit: set[TrackedJob] = set()
        self._on_gpu: TrackedJob | None = None

    async def wait_until_due(self) -> None:
        """Return when the next job is to be fetched."""
        while (seconds := self._seconds_until_due()) > 0:
            self.changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if seconds == math.inf else seconds):
                    await self.changed.wait()

    def count_fetched(self, jobs: int) -> None:
        """Note that `jobs` were fetched; each is expected to call `track`."""
        self._fetched += jobs

    @contextmanager
    def track(self) -> Iterator[TrackedJob]:
        """Track one job while the block runs; afterwards it delays no fetch, however it ended."""
        self._fetched = max(0, self._fetched - 1)  # the SDK's local modes count no fetched jobs
        job = TrackedJob(self, self._slow_seconds)
        self._before_edit.add(job)
        self.changed.set()
        try:
            yield job
        finally:
            job.end_edit()

    def give_gpu_to(self, job: TrackedJob) -> None:
        """Note which job is on the GPU now."""
        self._before_edit.discard(job)
        self._on_gpu = job
        self.changed.set()

    def forget(self, job: TrackedJob) -> None:
        """Note that a job has left the GPU, or will never get it."""
        self._before_edit.discard(job)
        if self._on_gpu is job:
            self._on_gpu = None
        self.changed.set()

    def _seconds_until_due(self) -> float:
        if self._fetched or len(self._before_edit) >= MAX_JOBS_BEFORE_EDIT:
            return math.inf
        until_slow = max((job.seconds_until_slow for job in self._before_edit), default=0.0)
        return max(until_slow, self._seconds_until_gpu_is_near_free())

    def _seconds_until_gpu_is_near_free(self) -> float:
        if self._on_gpu is None:
            return 0.0
        return self._on_gpu.seconds_left - self._prefetch_seconds
