"""A worker process whose editor does as the prompt says: `tests/local/fake_handler.py`."""

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
ON_LANE = {"enter", "step", "leave"}


@dataclass(frozen=True)
class Obedient:
    """A worker whose editor does as the prompt says.

    Attributes:
        endpoint: Its own.
        worker: Itself.
        directory: Where it looks for what it waits for.
    """

    endpoint: Endpoint
    worker: WorkerProcess
    directory: Path

    def send(self, seed: int, prompt: str = "paint", **job: Any) -> str:
        """Queue an edit that is known by its seed; return the job's id.

        Args:
            seed: Of the edit.
            prompt: What the editor is to do.
            job: Fields beside `input`, and `image`, which goes into it.
        """
        image = {"image": job.pop("image")} if "image" in job else {}
        return self.endpoint.send({**EDIT, **image, "prompt": prompt, "seed": seed}, **job)

    async def started(self, job_id: str) -> None:
        """Wait until it has taken a job."""
        await until(lambda: "Started." in self.worker.lines(job_id))

    async def stop(self, job_id: str) -> None:
        """Cancel a job that it has."""
        await self.endpoint.stop(job_id, self.worker)

    def release(self, seed: int) -> None:
        """Let an edit end that waits."""
        (self.directory / str(seed)).touch()

    def happened(self, since: int) -> list[str]:
        """Return what it has printed from an edit's entering the executor on."""
        events = re.findall(EVENT, self.worker.log, re.MULTILINE)
        return events[events.index(f"enter {since}") :] if f"enter {since}" in events else []

    def on_the_lane(self, since: int) -> list[str]:
        """Return what has happened on the executor from an edit's entering it on."""
        return [event for event in self.happened(since) if event.split()[0] in ON_LANE]


@asynccontextmanager
async def start_obedient(directory: Path, **settings: str) -> AsyncIterator[Obedient]:
    """Run a worker with the obedient editor and these settings, on an endpoint of its own."""
    async with serve_endpoint(directory) as endpoint:
        environment = endpoint.environment | endpoint.served.ledger.environment | settings
        async with start_worker(FAKE_HANDLER, environment, directory / "log") as worker:
            yield Obedient(endpoint, worker, directory)
