"""Measure a job's CPU time besides the GPU, beside a handler with Pillow, `requests` and boto3.

Counts user and system time of this process and of the decoders that it starts, but not of the
loopback server from which a photograph is fetched and where its edit is stored. The decoder process
is not running at first.
"""

import argparse
import asyncio
import json
import os
import resource
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
from bytes_paths import TARGET, Ours, Plain, saved
from PIL import Image

from kontext.contract.size import Size
from kontext.images.decode_pool import MAX_PROCESS_IMAGES
from kontext.settings import Settings
from kontext.storage import embedded_bucket
from kontext.storage.bucket import Bucket
from kontext.storage.result_file import ResultFile

PHOTOGRAPHS = {"1024*1024": Size(1024, 1024), "12 MP": Size(4000, 3000)}


class Job(NamedTuple):
    """A photograph, as URL, file and pixels, and what the GPU would make of it."""

    url: str
    content: bytes
    photograph: Image.Image
    result: Image.Image


def main() -> None:
    """Measure, and print what was measured."""
    parser = argparse.ArgumentParser(
        prog="python benchmarks/bytes.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=MAX_PROCESS_IMAGES,
        help="jobs of each size; the baseline and single steps run a fifth as many "
        f"(default: {MAX_PROCESS_IMAGES})",
    )
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as directory,
        embedded_bucket.serve(Path(directory)) as environment,
    ):
        os.environ.update(environment)
        print(json.dumps(asyncio.run(_measure(arguments.jobs))))


async def _measure(jobs: int) -> dict[str, float]:
    servers = set(psutil.Process().children(recursive=True))
    bucket = Bucket.from_settings(Settings.load())
    print("| photograph | path | fetch | decode | fit | encode | store | whole job |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    found = {}
    for name, size in PHOTOGRAPHS.items():
        job = await _job(bucket, size)
        for path in (Ours(bucket, job.url), Plain()):
            costs = await _costs(path, job, jobs, servers)
            cells = " | ".join(f"{cost:.1f}" for cost in costs)
            print(f"| {name} | {type(path).__name__.lower()} | {cells} |", flush=True)
            found[name, type(path)] = round(costs[-1], 1)
    first = next(iter(PHOTOGRAPHS))
    return {"cpu_ms": found[first, Ours], "baseline_cpu_ms": found[first, Plain]}


async def _costs(
    path: Ours | Plain, job: Job, jobs: int, servers: set[psutil.Process]
) -> list[float]:
    """Return the CPU milliseconds of each step and, last, of a whole job."""

    async def whole() -> None:
        await path.fit(await path.decode(await path.fetch(job.url)))
        await path.store(await path.encode(job.result))

    encoded = await path.encode(job.result)
    photograph = await path.decode(job.content)
    phases: list[Callable[[], Awaitable[object]]] = [
        lambda: path.fetch(job.url),
        lambda: path.decode(job.content),
        lambda: path.fit(photograph),
        lambda: path.encode(job.result),
        lambda: path.store(encoded),
    ]
    each = max(1, jobs // 5)
    times = each if isinstance(path, Plain) else jobs
    return [
        *[await _cost(phase, each, servers) for phase in phases],
        await _cost(whole, times, servers),
    ]


async def _cost(
    work: Callable[[], Awaitable[object]], times: int, servers: set[psutil.Process]
) -> float:
    """Return the mean CPU milliseconds of the work."""
    before = _spent(servers)
    for _ in range(times):
        await work()
    return (_spent(servers) - before) / times * 1000


def _spent(servers: set[psutil.Process]) -> float:
    """Return the CPU seconds of this process and its children, ended ones too, without servers."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = time.process_time() + ended.ru_utime + ended.ru_stime
    for child in set(psutil.Process().children(recursive=True)) - servers:
        with suppress(psutil.NoSuchProcess):
            times = child.cpu_times()
            spent += times.user + times.system
    return spent


async def _job(bucket: Bucket, size: Size) -> Job:
    photograph = _photograph(size)
    content = saved(photograph, "JPEG", quality=92)
    file = ResultFile(f"photograph-{size.width}", "jpg", content, "image/jpeg", {})
    return Job(await bucket.store(file), content, photograph, _photograph(TARGET))


def _photograph(size: Size) -> Image.Image:
    """Return noise at every scale, stronger at coarser scales, as in photographs."""
    random = np.random.default_rng(0)
    levels = np.full((size.height, size.width, 3), 128.0, np.float32)
    for cells in (4, 8, 16, 32, 64, 128, 256, 512, 1024):
        noise = random.normal(0, 45 / cells**0.5, (cells, cells, 3)).astype(np.float32)
        for channel in range(3):
            layer = Image.fromarray(noise[..., channel])
            smooth = layer.resize((size.width, size.height), Image.Resampling.BICUBIC)
            levels[..., channel] += np.asarray(smooth)
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8))


if __name__ == "__main__":
    main()
