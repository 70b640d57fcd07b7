"""In the place of `handler.py`: the real SDK loop and a real `Worker`, with nothing to load.

It obeys the prompt, and files beside the one that LEDGER names: while `unfit` lies there it fails
to boot, while `full` does it stores nothing, and a job that waits does so until there is a file
named as its seed.

Every job that it stores is a line in that file, `JOB-ID PROCESS-ID`, so that a test can count what
was run; so is its start, with `boot` in the place of the job. It prints what happens when: a
image fetched, the executor entered, a step, the executor left, a result stored.
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
"""Seconds between two looks at a file."""


class PrintingSource(ImageFetcher):
    """Says when it has fetched an image."""

    async def fetch(self, url: str, pixels: int | None = None) -> Image.Image:
        """Return the image."""
        image = await super().fetch(url, pixels)
        say("fetched")
        return image


class Painter:
    """Paints at once, unless the prompt is the name of a fault or of a pause."""

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
                while edit.request.prompt == "wait" and not lies_there(str(edit.seed)):
                    time.sleep(MOMENT)
            return Image.new("RGB", (edit.size.width, edit.size.height))
        finally:
            say(f"leave {edit.seed}")


def fail(prompt: str) -> None:
    """Do it, when the prompt says how."""
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
    """Passes everything."""

    def flags(self, _image: Image.Image) -> bool:
        """Pass."""
        return False


class Ledger:
    """Keeps no file, but a line for each."""

    async def store(self, file: ResultFile) -> str:
        """Write the line and return a link that leads nowhere."""
        while lies_there("full"):  # noqa: ASYNC110 - another process takes it away
            await asyncio.sleep(MOMENT)
        note(file.name)
        say(f"stored {file.metadata['seed']}")
        return f"https://bucket.invalid/{file.name}"


def say(what: str) -> None:
    """Print a line in one piece, whatever another thread prints at the moment."""
    os.write(sys.stdout.fileno(), f"{what}\n".encode())


def note(what: str) -> None:
    """Append a line; short ones are never torn."""
    with Path(os.environ["LEDGER"]).open("a") as ledger:
        ledger.write(f"{what} {os.getpid()}\n")


def lies_there(name: str) -> bool:
    """Tell whether there is such a file beside the ledger."""
    return Path(os.environ["LEDGER"]).with_name(name).exists()


def is_fit() -> None:
    """Pass, unless told otherwise."""
    if lies_there("unfit"):
        raise BootError("there are no weights")


def main() -> None:
    """Run it as `handler.py` runs, less the weights and the bucket."""
    settings = Settings.load()
    logs.configure(settings.production)
    # The SDK asks for the processor's name when imported, and measures it for a second to know.
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
