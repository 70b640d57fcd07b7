"""Measure how much of the time the GPU is busy, beside a worker that does one step after another.

The worker runs in production mode on the real SDK and a local server with a full queue. Fetching,
GPU and storing are sleeps of a fixed length, so that the figures hold on any machine.
"""

import argparse
import asyncio
import json
import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from kontext.local.jobs import Status, Submission
from kontext.local.server import Options, Server

HERE = Path(__file__).parent
INPUT = {"prompt": "x", "image": "data:,", "size": "256*256"}


class Turn(NamedTuple):
    """One edit on a worker's GPU thread, in seconds since the epoch."""

    began: float
    ended: float
    worker: str


class Run(NamedTuple):
    """The edits and the finished jobs of one run of the queue."""

    turns: list[Turn]
    jobs: list[dict[str, Any]]

    @property
    def busy(self) -> float:
        """Share of the time from the first to the last edit in which the GPU thread was busy."""
        worked = sum(turn.ended - turn.began for turn in self.turns)
        first, last = self.turns[0].began, max(turn.ended for turn in self.turns)
        return worked / (last - first) / len({turn.worker for turn in self.turns})


def main() -> None:
    """Measure, and print what was measured."""
    arguments = _parser().parse_args()
    print(json.dumps(asyncio.run(_measure(arguments))))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python benchmarks/loop.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--jobs", type=int, default=50, help="in the queue (default: 50)")
    parser.add_argument("--gpu", type=float, default=1.0, help="seconds on the GPU (default: 1)")
    parser.add_argument("--fetch", type=float, default=0.15, help="seconds (default: 0.15)")
    parser.add_argument("--store", type=float, default=0.2, help="seconds (default: 0.2)")
    return parser


async def _measure(arguments: argparse.Namespace) -> dict[str, float]:
    paced = await _run(arguments, "paced_worker.py", arguments.jobs, workers=1)
    plain = await _run(arguments, "plain_worker.py", arguments.jobs, workers=1)
    shared = await _run(arguments, "paced_worker.py", 3, workers=2)
    taken = Counter(job["id"] for job in paced.jobs if job["status"] == Status.COMPLETED)
    found = {
        "lane_busy": round(paced.busy, 4),
        "baseline_lane_busy": round(plain.busy, 4),
        "lost": arguments.jobs - len(taken),
        "doubled": len(paced.turns) - len(taken),
        "idle_while_waiting_s": round(_idle_while_waiting(shared), 3),
    }
    print(
        f"| worker | jobs | GPU busy |\n| --- | --- | --- |\n"
        f"| ours | {len(paced.jobs)} | {paced.busy:.1%} |\n"
        f"| plain handler | {len(plain.jobs)} | {plain.busy:.1%} |"
    )
    return found


async def _run(arguments: argparse.Namespace, worker: str, jobs: int, workers: int) -> Run:
    """Queue the jobs, start the workers, and return when all jobs have ended."""
    with tempfile.TemporaryDirectory() as directory:
        turns_file = Path(directory, "turns")
        each = [environment(arguments, turns_file)] * workers
        server = Server(Options(Path(directory, "queue"), each, HERE / worker))
        stop = asyncio.Event()
        running = asyncio.create_task(server.run(stop))
        while not all(worker.is_ready for worker in server.workers):  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.1)
        ids = [server.queue.submit(Submission(input=INPUT), sync=False).id for _ in range(jobs)]
        ended = [await server.queue.wait_until_finished(job_id, 600) for job_id in ids]
        stop.set()
        await running
        turns = _turns(turns_file)
        return Run(turns, [job.envelope() for job in ended if job])


def environment(arguments: argparse.Namespace, turns_file: Path) -> dict[str, str]:
    """Return the environment of `paced_worker.py` and `plain_worker.py`.

    Args:
        arguments: The seconds that each step takes.
        turns_file: File to which the workers append their turns on the GPU.
    """
    return {
        **os.environ,
        "TURNS_FILE": str(turns_file),
        "GPU_SECONDS": str(arguments.gpu),
        "FETCH_SECONDS": str(arguments.fetch),
        "STORE_SECONDS": str(arguments.store),
        "RUNPOD_SKIP_GPU_CHECK": "true",
    }


def _turns(turns_file: Path) -> list[Turn]:
    lines = [line.split() for line in turns_file.read_text().splitlines()]
    return [Turn(float(began), float(ended), worker) for began, ended, worker in lines]


def _idle_while_waiting(run: Run) -> float:
    """Return the longest time that a worker was idle while a job waited for another's GPU."""
    longest = 0.0
    for turn in run.turns:
        for worker in {other.worker for other in run.turns} - {turn.worker}:
            before = [other for other in run.turns if other.worker == worker]
            ended = [other.ended for other in before if other.began < turn.began]
            if ended and max(ended) < turn.began:
                longest = max(longest, turn.began - max(ended))
    return longest


if __name__ == "__main__":
    main()
