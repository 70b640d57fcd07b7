"""Our worker on the SDK's loop, with images, GPU and bucket that only take their time.

Each edit is a line in the file that LANE names: when it got the GPU executor and when it left it.
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

FETCH, LANE, STORE = (float(os.environ[name]) for name in ("FETCH", "GPU", "STORE"))
"""Seconds that each takes."""

STEPS = 20


class SlowSource(ImageFetcher):
    """Every image takes its time."""

    async def fetch(self, _url: str, _pixels: int | None = None) -> Image.Image:
        """Return a plain image."""
        await asyncio.sleep(FETCH)
        return Image.new("RGB", (256, 256))


class SleepingEditor:
    """Keeps the executor for as long as an edit would."""

    model, revision, mode = "fake", "0", "exact"

    def edit(self, edit: Edit, on_step: Callable[[int], None]) -> Image.Image:
        """Sleep step by step, and note how long."""
        began = time.time()
        for step in range(STEPS):
            time.sleep(max(0.0, began + LANE * (step + 1) / STEPS - time.time()))
            on_step(step + 1)
        note(began)
        return Image.new("RGB", (edit.size.width, edit.size.height))


class Lenient:
    """Passes everything."""

    def flags(self, _image: Image.Image) -> bool:
        """Pass."""
        return False


class SlowStorage:
    """Every upload takes its time."""

    async def store(self, file: ResultFile) -> str:
        """Return a link that leads nowhere."""
        await asyncio.sleep(STORE)
        return f"https://bucket.invalid/{file.name}"


def note(began: float) -> None:
    """Append a turn on the executor; short lines are never torn."""
    with Path(os.environ["LANE"]).open("a") as executor:
        executor.write(f"{began} {time.time()} {os.environ['RUNPOD_POD_ID']}\n")


def main() -> None:
    """Run it as `handler.py` runs, less the boot."""
    settings = Settings.load()
    logs.configure(settings.production)
    from kontext.serverless.sdk import hand_over, post_progress

    prefetch, executor = (
        Prefetch(settings.prefetch_seconds),
        GpuExecutor(settings.stop_timeout_seconds),
    )
    source = SlowSource(address_policy(settings))
    editor, storage = SleepingEditor(), SlowStorage()
    worker = Worker(settings, source, editor, Lenient(), storage, post_progress, executor, prefetch)
    hand_over(worker.run, prefetch, executor, settings.shutdown_seconds)


if __name__ == "__main__":
    main()
