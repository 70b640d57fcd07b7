"""A fake `handler.py`: the real SDK loop and a real `Worker`, with a fake model and store.

Tests control it by the prompt, and by files in the directory of the ledger, the file that LEDGER
names. While `unfit` exists, the worker fails to boot; while `full` exists, it stores nothing; a job
with the prompt `wait` waits until a file named like its seed exists.

Each stored job is a line in the ledger, `JOB-ID PROCESS-ID`, so that a test can count the runs;
each start of a worker is a line with `boot` as its job. The worker prints each event: an image
fetched, the GPU thread entered, a step, the GPU thread left, a result stored.
"""

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

from PIL import Image

from kontext import logs
from kontext.address_policy import address_policy
from kontext.errors import BootError, GpuFault, MemoryNotFreed, OutOfMemory
from kontext.images.fetch import ImageFetcher
from kontext.inference.edit import Edit
from kontext.inference.executor import GpuExecutor
from kontext.jobs.prefetch import Prefetch
from kontext.settings import Settings
from kontext.storage.result_file import ResultFile
from kontext.worker import Worker

MOMENT = 0.01
"""Seconds between two checks for a file."""


class PrintingSource(ImageFetcher):
    """Prints when it has fetched an image."""

    async def fetch(self, url: str, pixels: int | None = None) -> Image.Image:
        """Return the image."""
        image = await super().fetch(url, pixels)
        say("fetched")
        return image


class Painter:
    """Returns a plain image at once, unless the prompt names a fault or a pause."""

    model, revision, mode = "fake", "0", "exact"

    def edit(self, edit: Edit, on_step: Callable[[int], None]) -> Image.Image:
        """Return a plain image."""
        say(f"enter {edit.seed}")
        try:
            fail(edit.request.prompt)
            for step in range(edit.request.num_inference_steps):
                say(f"step {edit.seed}")
                time.sleep(0.1 if edit.request.prompt == "take your time" else 0)
                on_step(step + 1)
                while edit.request.prompt == "wait" and not file_exists(str(edit.seed)):
                    time.sleep(MOMENT)
            return Image.new("RGB", (edit.size.width, edit.size.height))
        finally:
            say(f"leave {edit.seed}")


def fail(prompt: str) -> None:
    """Fail in the way that the prompt names, if it names one."""
    match prompt:
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "fail":
            raise RuntimeError("the private cause, in /opt/private on host-of-the-worker")
        case "out of memory":
            raise OutOfMemory(OutOfMemory.example)
        case "memory not freed":
            raise MemoryNotFreed(OutOfMemory.example)
        case "lost gpu":
            raise GpuFault
        case "hang":
            threading.Event().wait()
        case "stop iteration":
            raise StopIteration
        case "cancelled error":
            raise asyncio.CancelledError
        case "system exit":
            sys.exit("the private cause")


class Lenient:
    """A safety checker that passes every image."""

    def flags(self, _image: Image.Image, _tolerance: int) -> bool:
        """Return that the image is safe."""
        return False


class Ledger:
    """A store that keeps a line for each file instead of the file."""

    async def store(self, file: ResultFile) -> str:
        """Write the line and return a link to no server."""
        while file_exists("full"):  # noqa: ASYNC110 - another process removes it
            await asyncio.sleep(MOMENT)
        note(file.name)
        say(f"stored {file.metadata['seed']}")
        return f"https://bucket.invalid/{file.name}"


def say(what: str) -> None:
    """Print a line in one write, so that no other thread's output gets into it."""
    os.write(sys.stdout.fileno(), f"{what}\n".encode())


def note(what: str) -> None:
    """Append a line to the ledger; short lines are written in one piece."""
    with Path(os.environ["LEDGER"]).open("a") as ledger:
        ledger.write(f"{what} {os.getpid()}\n")


def file_exists(name: str) -> bool:
    """Tell whether the ledger's directory has such a file."""
    return Path(os.environ["LEDGER"]).with_name(name).exists()


def is_fit() -> None:
    """Raise BootError while the file `unfit` exists."""
    if file_exists("unfit"):
        raise BootError("there are no weights")


def main() -> None:
    """Run as `handler.py` does, but without weights and bucket."""
    settings = Settings.load()
    logs.configure(settings.production)
    # When imported, the SDK reads the processor's name, which takes a second of measurement.
    sys.modules["cpuinfo"] = SimpleNamespace(get_cpu_info=dict)  # type: ignore[assignment]
    import runpod.serverless  # noqa: PLC0415

    from kontext.serverless.sdk import hand_over, post_progress  # noqa: PLC0415

    source, prefetch = PrintingSource(address_policy(settings)), Prefetch(settings.prefetch_seconds)
    executor = GpuExecutor(settings.stop_timeout_seconds)
    worker = Worker(
        settings, source, Painter(), Lenient(), Ledger(), post_progress, executor, prefetch
    )
    note("boot")
    runpod.serverless.register_fitness_check(is_fit)
    hand_over(worker.run, prefetch, executor, settings.shutdown_seconds)


if __name__ == "__main__":
    main()
