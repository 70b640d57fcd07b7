"""A real `Worker` on the real SDK, with an editor for faults that no model can be asked for."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import runpod.serverless
from PIL import Image

from kontext import logs
from kontext.edit import Edit
from kontext.errors import OutOfMemory
from kontext.serverless import post_progress
from kontext.settings import Settings
from kontext.source import Source, address_policy
from kontext.stored_file import StoredFile
from kontext.worker import Worker


class ObedientEditor:
    """Does what the prompt says; prints when it takes and leaves the GPU lane, and every step."""

    model = "fake"
    revision = "none"

    def edit(self, edit: Edit, on_step: Callable[[int], None]) -> Image.Image:
        """Take the steps, or fail, or first wait for the file that the seed names."""
        print("enter", edit.seed, flush=True)
        try:
            match edit.prompt:
                case "fail":
                    raise RuntimeError("the private cause, in /opt/private on host-of-the-worker")
                case "run out of memory":
                    raise OutOfMemory(OutOfMemory.example)
            for step in range(1, edit.steps + 1):
                print("step", edit.seed, flush=True)
                on_step(step)
                while (
                    edit.prompt == "wait" and not Path(os.environ["GATES"], str(edit.seed)).exists()
                ):
                    time.sleep(0.01)
            return Image.new("RGB", (edit.size.width, edit.size.height))
        finally:
            print("leave", edit.seed, flush=True)


class Lenient:
    """A checker that passes everything."""

    def flags(self, _picture: Image.Image) -> bool:
        """Pass."""
        return False


class Nowhere:
    """A storage that keeps nothing."""

    async def store(self, file: StoredFile) -> str:
        """Return a link that leads nowhere."""
        return f"https://bucket.invalid/{file.name}"


def main() -> None:
    """Run it as `handler.py` runs, less the boot."""
    settings = Settings.load()
    logs.configure(settings.production)
    source = Source(address_policy(settings))
    worker = Worker(settings, source, ObedientEditor(), Lenient(), Nowhere(), post_progress)
    runpod.serverless.start({"handler": worker.run})


if __name__ == "__main__":
    main()
