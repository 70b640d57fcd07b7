"""How long a worker takes to end when it is told to, and what becomes of the jobs it holds.

Production mode, real SDK, the local server; fetching, GPU and storing are sleeps. SIGTERM comes
when one job is on the GPU executor and the next has been taken ahead; a plain handler has but one.
A job is finished, or queued again for the next worker, or lost.
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


class End(NamedTuple):
    """What one worker's end showed."""

    seconds: float
    statuses: Counter[Status]

    @property
    def lost(self) -> int:
        """Jobs neither finished nor queued again."""
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
    parser.add_argument(
        "--gpu", type=float, default=3.0, help="seconds on the executor (default: 3)"
    )
    parser.add_argument("--fetch", type=float, default=0.15, help="seconds (default: 0.15)")
    parser.add_argument("--store", type=float, default=0.2, help="seconds (default: 0.2)")
    parser.add_argument("--grace", type=float, default=10, help="seconds allowed (default: 10)")
    return parser


async def _measure(arguments: argparse.Namespace) -> dict[str, float]:
    ends = {
        "ours": await _end(arguments, "paced_worker.py", arguments.grace, held=2),
        "ours, no time": await _end(arguments, "paced_worker.py", 0, held=2),
        "plain handler": await _end(arguments, "plain_worker.py", arguments.grace, held=1),
    }
    print("| worker | grace, s | ended after, s | finished | queued again | lost |")
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


async def _end(arguments: argparse.Namespace, worker: str, grace: float, held: int) -> End:
    """Tell a worker to end once it has so many jobs, and look at the jobs when it is gone."""
    with tempfile.TemporaryDirectory() as directory:
        database = Path(directory, "queue")
        each = [environment(arguments, Path(directory, "executor"))]
        server = Server(Options(database, each, HERE / worker, grace_seconds=grace))
        stop = asyncio.Event()
        running = asyncio.create_task(server.run(stop))
        ids = [server.queue.submit(Submission(input=INPUT), sync=False).id for _ in range(JOBS)]
        while server.queue.store.counts().get(Status.IN_PROGRESS, 0) < held:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        told = time.perf_counter()
        stop.set()
        await running
        return End(time.perf_counter() - told, _statuses(database, ids))


def _statuses(database: Path, ids: list[str]) -> Counter[Status]:
    store = Store(database)
    jobs = [store.get(job_id) for job_id in ids]
    store.close()
    return Counter(job.status for job in jobs if job)


if __name__ == "__main__":
    main()
