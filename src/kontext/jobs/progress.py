"""Progress of a job to Runpod, which can never arrive after the job's result.

The SDK's own `progress_update` posts from threads that nobody waits for: a late one lands after
the result and leaves the job IN_PROGRESS for ever (runpod-python issue #250). Here at most one
update is under way, the newest waits, and the last one lands before the result goes.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Self, TypedDict


class Progress(TypedDict):
    """What a client reads as `output` while the job is IN_PROGRESS; an object, never a string."""

    step: int
    steps: int
    percent: int


Post = Callable[[Progress], Awaitable[None]]

LONGEST_POST = 5.0
"""Seconds an update may take before its connection is dropped."""


class ProgressReporter:
    """Posts the newest progress of one job, as often as the endpoint takes it.

    As a context manager it ends with the update under way landed, or, when the job was cancelled,
    dropped; what came after it is not sent.

    Args:
        post: Sends one update; its failure is nobody's concern.
        steps: Denoising steps of the job.
        longest_post: Seconds until it is given up.
    """

    def __init__(self, post: Post, steps: int, longest_post: float = LONGEST_POST) -> None:
        self._post = post
        self._steps = steps
        self._longest_post = longest_post
        self._newest = 0
        self._sent = 0
        self._open = True
        self._sender: asyncio.Task[None] | None = None

    def step(self, done: int) -> None:
        """Note that `done` steps are done; on the event loop's thread only."""
        self._newest = done
        if self._open and (self._sender is None or self._sender.done()):
            self._sender = asyncio.create_task(self._send())

    async def __aenter__(self) -> Self:
        """Start with nothing done."""
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Return when no update is under way any more, nor will be."""
        self._open = False
        if self._sender is None:
            return
        if kind is not None and issubclass(kind, asyncio.CancelledError):
            self._sender.cancel()
        await self._sender  # also ends it when the job is cancelled only now

    async def _send(self) -> None:
        while self._open and self._sent < self._newest:
            self._sent = done = self._newest
            update = Progress(step=done, steps=self._steps, percent=100 * done // self._steps)
            with contextlib.suppress(Exception):
                async with asyncio.timeout(self._longest_post):
                    await self._post(update)
