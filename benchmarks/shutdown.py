"""Measure how long a worker takes to shut down, and what becomes of the jobs that it holds.

The worker runs in production mode on the real SDK and the local server; fetching, GPU and storing
are sleeps. SIGTERM comes when one job is on the GPU thread and the next is prefetched; a plain
handler holds one job only. Each job is then finished, requeued for the next worker, or lost.
"""

import argparse
import asyncio
import json
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from loop import INPUT, environment

from kontext.local.jobs import Status, Submission
from kontext.local.server import Options, Server
from kontext.local.store import Store

HERE = Path(__file__).parent
JOBS = 5


class Shutdown(NamedTuple):
    """The seconds of one worker's shutdown, and how many jobs had which status then."""

    seconds: float
    statuses: Counter[Status]

    @property
    def lost(self) -> int:
        """Number of jobs neither finished nor requeued."""
        return JOBS - self.statuses[Status.COMPLETED] - self.statuses[Status.IN_QUEUE]


def main() -> None:
    """Measure, and print what was measured."""
    arguments = _parser().parse_args()
    print(json.dumps(asyncio.run(_measure(arguments))))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python benchmarks/shutdown.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--gpu", type=float, default=3.0, help="seconds on the GPU (default: 3)")
    parser.add_argument("--fetch", type=float, default=0.15, help="seconds (default: 0.15)")
    parser.add_argument("--store", type=float, default=0.2, help="seconds (default: 0.2)")
    parser.add_argument(
        "--grace", type=float, default=10, help="graceful period in seconds (default: 10)"
    )
    return parser


async def _measure(arguments: argparse.Namespace) -> dict[str, float]:
    ends = {
        "ours": await _shut_down(arguments, "paced_worker.py", arguments.grace, held=2),
        "ours, no time": await _shut_down(arguments, "paced_worker.py", 0, held=2),
        "plain handler": await _shut_down(arguments, "plain_worker.py", arguments.grace, held=1),
    }
    print("| worker | grace, s | ended after, s | finished | requeued | lost |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, end in ends.items():
        grace = 0 if name == "ours, no time" else arguments.grace
        done, queued = end.statuses[Status.COMPLETED], end.statuses[Status.IN_QUEUE]
        print(f"| {name} | {grace:g} | {end.seconds:.2f} | {done} | {queued} | {end.lost} |")
    return {
        "exit_s": round(ends["ours"].seconds, 3),
        "baseline_exit_s": round(ends["plain handler"].seconds, 3),
        "grace_s": arguments.grace,
        "lost": sum(end.lost for name, end in ends.items() if name != "plain handler"),
        "baseline_lost": ends["plain handler"].lost,
    }


async def _shut_down(
    arguments: argparse.Namespace, worker: str, grace: float, held: int
) -> Shutdown:
    """Shut a worker down once it holds that many jobs, and look at the jobs afterwards."""
    with tempfile.TemporaryDirectory() as directory:
        database = Path(directory, "queue")
        each = [environment(arguments, Path(directory, "turns"))]
        server = Server(Options(database, each, HERE / worker, grace_seconds=grace))
        stop = asyncio.Event()
        running = asyncio.create_task(server.run(stop))
        ids = [server.queue.submit(Submission(input=INPUT), sync=False).id for _ in range(JOBS)]
        while server.queue.store.counts().get(Status.IN_PROGRESS, 0) < held:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        began = time.perf_counter()
        stop.set()
        await running
        return Shutdown(time.perf_counter() - began, _statuses(database, ids))


def _statuses(database: Path, ids: list[str]) -> Counter[Status]:
    store = Store(database)
    jobs = [store.get(job_id) for job_id in ids]
    store.close()
    return Counter(job.status for job in jobs if job)


if __name__ == "__main__":
    main()
