"""A worker process whose editor does what the prompt says: `tests/local/fake_handler.py`."""

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.local.served import FAKE_HANDLER, until
from tests.support.endpoint import Endpoint, WorkerProcess, serve_endpoint, start_worker

ROOT = Path(__file__).parents[2]
EDIT: dict[str, Any] = {
    **json.loads((ROOT / "test_input.json").read_text())["input"],
    "size": "256*256",
    "num_inference_steps": 2,
}
EVENT = r"^(?:fetched|(?:enter|step|leave|stored) \d+)$"
GPU_EVENTS = {"enter", "step", "leave"}


@dataclass(frozen=True)
class Obedient:
    """A worker whose editor does what the prompt says.

    Attributes:
        endpoint: The endpoint of this worker alone.
        worker: The worker's process.
        directory: The directory of the files that the editor waits for.
    """

    endpoint: Endpoint
    worker: WorkerProcess
    directory: Path

    def send(self, seed: int, prompt: str = "paint", **job: Any) -> str:
        """Queue an edit and return the job's id.

        Args:
            seed: The seed of the edit, by which a test recognizes it.
            prompt: The instruction to the editor.
            job: Fields of the job beside `input`; `image` goes into `input`.
        """
        image = {"image": job.pop("image")} if "image" in job else {}
        return self.endpoint.send({**EDIT, **image, "prompt": prompt, "seed": seed}, **job)

    async def started(self, job_id: str) -> None:
        """Wait until the worker has started a job."""
        await until(lambda: "Started." in self.worker.lines(job_id))

    async def stop(self, job_id: str) -> None:
        """Cancel a job that the worker has."""
        await self.endpoint.stop(job_id, self.worker)

    def release(self, seed: int) -> None:
        """Let an edit that waits end."""
        (self.directory / str(seed)).touch()

    def events_since(self, since: int) -> list[str]:
        """Return the events that the worker printed since an edit got the GPU."""
        events = re.findall(EVENT, self.worker.log, re.MULTILINE)
        return events[events.index(f"enter {since}") :] if f"enter {since}" in events else []

    def gpu_events_since(self, since: int) -> list[str]:
        """Return the events on the GPU thread since an edit got it."""
        return [event for event in self.events_since(since) if event.split()[0] in GPU_EVENTS]


@asynccontextmanager
async def start_obedient(directory: Path, **settings: str) -> AsyncIterator[Obedient]:
    """Run a worker with the obedient editor and these settings, on its own endpoint."""
    async with serve_endpoint(directory) as endpoint:
        environment = endpoint.environment | endpoint.served.ledger.environment | settings
        async with start_worker(FAKE_HANDLER, environment, directory / "log") as worker:
            yield Obedient(endpoint, worker, directory)
