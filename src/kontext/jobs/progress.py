"""Posts a job's progress to Runpod, and never after the job's result.

The SDK's own `progress_update` posts from threads without waiting for them: a late post arrives
after the result and leaves the job IN_PROGRESS for ever (runpod-python issue #250). Here at most
one post is under way, only the newest progress waits behind it, and the last post has ended before
the result is sent.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Self, TypedDict


class Progress(TypedDict):
    """The `output` that a client reads while the job is IN_PROGRESS; an object, never a string."""

    step: int
    steps: int
    percent: int


Post = Callable[[Progress], Awaitable[None]]

POST_TIMEOUT_SECONDS = 5.0
"""How long a post may take before its connection is dropped."""


class ProgressReporter:
    """Posts the newest progress of one job, as often as the endpoint accepts it.

    As a context manager it ends when the post under way has ended, or, if the job was cancelled,
    drops that post. Progress that is newer is not posted then.

    Args:
        post: Sends one update; its failures are ignored.
        steps: The number of the job's denoising steps.
        timeout_seconds: How long a post may take before it is dropped.
    """

    def __init__(
        self, post: Post, steps: int, timeout_seconds: float = POST_TIMEOUT_SECONDS
    ) -> None:
        self._post = post
        self._steps = steps
        self._timeout_seconds = timeout_seconds
        self._newest = 0
        self._sent = 0
        self._open = True
        self._sender: asyncio.Task[None] | None = None

    def set_steps_done(self, done: int) -> None:
        """Post that `done` steps are done; call it on the event loop's thread only."""
        self._newest = done
        if self._open and (self._sender is None or self._sender.done()):
            self._sender = asyncio.create_task(self._send())

    async def __aenter__(self) -> Self:
        """Start with nothing done."""
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait for the post under way and allow no other."""
        self._open = False
        if self._sender is None:
            return
        if kind is not None and issubclass(kind, asyncio.CancelledError):
            self._sender.cancel()
        await self._sender  # if the job is cancelled now, this cancels the post too

    async def _send(self) -> None:
        while self._open and self._sent < self._newest:
            self._sent = done = self._newest
            update = Progress(step=done, steps=self._steps, percent=100 * done // self._steps)
            with contextlib.suppress(Exception):
                async with asyncio.timeout(self._timeout_seconds):
                    await self._post(update)
