"""Run our worker on the SDK's loop, with sleeps for fetching, GPU and storing.

Each edit appends a line to the file TURNS_FILE: when it began on the GPU thread and when it ended.
"""

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from kontext import logs
from kontext.address_policy import address_policy
from kontext.images.fetch import ImageFetcher
from kontext.inference.edit import Edit
from kontext.inference.executor import GpuExecutor
from kontext.jobs.prefetch import Prefetch
from kontext.settings import Settings
from kontext.storage.result_file import ResultFile
from kontext.worker import Worker

FETCH_SECONDS = float(os.environ["FETCH_SECONDS"])
GPU_SECONDS = float(os.environ["GPU_SECONDS"])
STORE_SECONDS = float(os.environ["STORE_SECONDS"])
STEPS = 20


class SlowSource(ImageFetcher):
    """A source that sleeps and returns a plain image."""

    async def fetch(self, _url: str, _pixels: int | None = None) -> Image.Image:
        """Sleep, and return a plain image."""
        await asyncio.sleep(FETCH_SECONDS)
        return Image.new("RGB", (256, 256))


class SleepingEditor:
    """An editor that sleeps step by step on the GPU thread."""

    model, revision, mode = "fake", "0", "exact"

    def edit(self, edit: Edit, on_step: Callable[[int], None]) -> Image.Image:
        """Sleep step by step, note the turn, and return a plain image."""
        began = time.time()
        for step in range(STEPS):
            time.sleep(max(0.0, began + GPU_SECONDS * (step + 1) / STEPS - time.time()))
            on_step(step + 1)
        note(began)
        return Image.new("RGB", (edit.size.width, edit.size.height))


class NoSafetyChecker:
    """A safety checker that passes every image."""

    def flags(self, _image: Image.Image, _tolerance: int) -> bool:
        """Pass the image."""
        return False


class SlowStorage:
    """A storage that sleeps and keeps nothing."""

    async def store(self, file: ResultFile) -> str:
        """Sleep, and return a link that leads nowhere."""
        await asyncio.sleep(STORE_SECONDS)
        return f"https://bucket.invalid/{file.name}"


def note(began: float) -> None:
    """Append a turn to the file; workers may share it, as short lines are written whole."""
    with Path(os.environ["TURNS_FILE"]).open("a") as turns:
        turns.write(f"{began} {time.time()} {os.environ['RUNPOD_POD_ID']}\n")


def main() -> None:
    """Run the worker as `handler.py` does, without the boot."""
    settings = Settings.load()
    logs.configure(settings.production)
    from kontext.serverless.sdk import hand_over, post_progress

    prefetch, executor = (
        Prefetch(settings.prefetch_seconds),
        GpuExecutor(settings.stop_timeout_seconds),
    )
    source = SlowSource(address_policy(settings))
    editor, storage = SleepingEditor(), SlowStorage()
    worker = Worker(
        settings, source, editor, NoSafetyChecker(), storage, post_progress, executor, prefetch
    )
    hand_over(worker.run, prefetch, executor, settings.shutdown_seconds)


if __name__ == "__main__":
    main()
