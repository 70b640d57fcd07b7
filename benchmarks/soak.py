"""Measure whether a worker leaks memory, threads or files over thousands of jobs.

The worker runs in production mode on the real SDK and the local server, with the stand-in model at
256*256 and a real S3 server on loopback. Memory is the resident memory of the worker's process. Its
slope is fitted to the second half of the run, when caches are full; its noise is twice the slope's
standard error.
"""

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil

from kontext.local.jobs import Status, Submission
from kontext.local.server import Options, Server
from kontext.storage import embedded_bucket

ROOT = Path(__file__).parent.parent
QUEUED_JOBS = 8
"""Number of jobs kept in the queue, so that the worker never waits for one."""


class Sample(NamedTuple):
    """The worker's process after a number of jobs."""

    jobs: int
    resident_kb: float
    threads: int


def main() -> None:
    """Measure, and print what was measured."""
    parser = argparse.ArgumentParser(
        prog="python benchmarks/soak.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--jobs", type=int, default=2000, help="number of jobs (default: 2000)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        print(json.dumps(asyncio.run(_measure(arguments.jobs, Path(directory)))))


async def _measure(jobs: int, directory: Path) -> dict[str, float]:
    temporary = directory / "tmp"
    temporary.mkdir()
    with embedded_bucket.serve(directory / "bucket") as bucket:
        environment = {
            **os.environ,
            "MIN_GENERATION_MEGAPIXELS": "0",  # generate 256*256 at that size, not larger
            **bucket,
            "STAND_IN": "model,safety",
            "OMP_NUM_THREADS": "1",
            "RUNPOD_SKIP_GPU_CHECK": "true",
            "TMPDIR": str(temporary),
        }
        server = Server(Options(directory / "queue", [environment], ROOT / "handler.py"))
        stop = asyncio.Event()
        running = asyncio.create_task(server.run(stop))
        samples, failed = await _soak(server, jobs)
        left = sum(path.is_file() for path in temporary.rglob("*"))
        stop.set()
        await running
    return _found(samples, jobs, failed, left)


async def _soak(server: Server, jobs: int) -> tuple[list[Sample], int]:
    """Run `jobs` jobs from a full queue; return a sample after each, and the number of failures."""
    job = json.loads((ROOT / "test_input.json").read_text())["input"]
    job |= {"size": "256*256", "num_inference_steps": 1}
    samples: list[Sample] = []
    failed = 0
    waiting: list[str] = []
    began = time.monotonic()
    for number in range(jobs + QUEUED_JOBS):
        if number < jobs:
            waiting.append(server.queue.submit(Submission(input=job), sync=False).id)
        if number >= QUEUED_JOBS:
            failed += not await _succeeds(server, waiting.pop(0))
            samples.append(_sample(server, len(samples) + 1))
            if len(samples) % 100 == 0:
                newest, seconds = samples[-1], time.monotonic() - began
                print(
                    f"{newest.jobs} jobs, {seconds:.0f} s, {newest.resident_kb / 1024:.0f} MB, "
                    f"{newest.threads} threads",
                    flush=True,
                )
    return samples, failed


async def _succeeds(server: Server, job_id: str) -> bool:
    job = await server.queue.wait_until_finished(job_id, 120)
    return job is not None and job.status == Status.COMPLETED


def _sample(server: Server, jobs: int) -> Sample:
    """Look at the worker's process, the child of the shell that ends it with the server."""
    shell = psutil.Process(server.workers[0].pid)
    worker: Any = next(p for p in shell.children() if "handler.py" in " ".join(p.cmdline()))
    return Sample(jobs, worker.memory_info().rss / 1024, worker.num_threads())


def _found(samples: list[Sample], jobs: int, failed: int, left: int) -> dict[str, float]:
    second_half = samples[len(samples) // 2 :]
    slope, noise = _slope(second_half)
    tenth = len(second_half) // 10
    before, after = (
        statistics.median(sample.threads for sample in part)
        for part in (second_half[:tenth], second_half[-tenth:])
    )
    resident = samples[-1].resident_kb / 1024
    print(
        f"| jobs | failed | resident | slope | threads | files left |\n"
        f"| --- | --- | --- | --- | --- | --- |\n"
        f"| {jobs} | {failed} | {resident:.0f} MB | {slope:.2f} ± {noise:.2f} kB/job | "
        f"{after:g} | {left} |"
    )
    return {
        "jobs": jobs,
        "failed": failed,
        "rss_slope_kb_per_job": round(slope, 3),
        "rss_slope_noise_kb_per_job": round(noise, 3),
        "threads_grown": after - before,
        "files_left": left,
    }


def _slope(samples: list[Sample]) -> tuple[float, float]:
    """Return the slope in kB per job and twice its standard error.

    The line is fitted to the means of ten parts, because single samples depend on their neighbours.
    """
    parts = np.array_split(np.array([(s.jobs, s.resident_kb) for s in samples]), 10)
    jobs, resident = np.array([part.mean(axis=0) for part in parts]).T
    (slope, _), covariance = np.polyfit(jobs, resident, 1, cov=True)
    return float(slope), 2 * float(np.sqrt(covariance[0, 0]))


if __name__ == "__main__":
    main()
