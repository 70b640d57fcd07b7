"""What a job costs besides the GPU, beside plain Pillow, `requests` and a new boto3 client a job.

CPU time, user and system, of this process and the decoders that it starts, not of the loopback
server that a photograph is fetched from and its edit stored in. The decoder is cold at first.
"""

import argparse
import asyncio
import io
import json
import os
import resource
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from ipaddress import ip_network
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import boto3
import numpy as np
import psutil
import requests
from botocore.config import Config
from PIL import Image
from ssrfguard import Policy

from kontext.contract.output_format import OutputFormat
from kontext.contract.size import Size
from kontext.images import reference
from kontext.images.decode_pool import MAX_PROCESS_IMAGES, decode_in_process
from kontext.images.encode import encode
from kontext.images.fetch import ImageFetcher
from kontext.images.provenance import Provenance
from kontext.settings import Settings
from kontext.storage import embedded_bucket
from kontext.storage.bucket import Bucket
from kontext.storage.result_file import ResultFile

TARGET = Size(1024, 1024)
PHOTOGRAPHS = {"1024*1024": Size(1024, 1024), "12 MP": Size(4000, 3000)}
PROVENANCE = Provenance(
    "kontext", "benchmark", "none", "exact", 1, 28, 2.5, str(TARGET), str(TARGET)
)


class Job(NamedTuple):
    """What goes in, and what comes off the GPU."""

    url: str
    content: bytes
    photograph: Image.Image
    result: Image.Image


class Ours:
    """A job's way through this project."""

    def __init__(self, bucket: Bucket, url: str) -> None:
        self._bucket = bucket
        loopback = (ip_network("127.0.0.0/8"),)
        ports = frozenset({urlsplit(url).port or 80})
        self._fetcher = ImageFetcher(Policy(allowed_networks=loopback, allowed_ports=ports))

    async def fetch(self, url: str) -> bytes:
        """Return the photograph's file."""
        return await self._fetcher.content(url)

    async def decode(self, content: bytes) -> Image.Image:
        """Return its pixels."""
        return await asyncio.to_thread(decode_in_process, content, TARGET.area)

    async def fit(self, photograph: Image.Image) -> Image.Image:
        """Return the reference."""
        return await asyncio.to_thread(reference.fit, photograph, TARGET)

    async def encode(self, result: Image.Image) -> bytes:
        """Return the result's file."""
        return await asyncio.to_thread(encode, result, OutputFormat.PNG, PROVENANCE)

    async def store(self, content: bytes) -> object:
        """Return its link."""
        file = ResultFile("ours", "png", content, "image/png", PROVENANCE.fields())
        return await self._bucket.store(file)


class Plain:
    """A job's way through a handler as Runpod's own workers have it."""

    async def fetch(self, url: str) -> bytes:
        """Return the photograph's file."""
        return requests.get(url, timeout=30).content  # noqa: ASYNC210 - as plain as it gets

    async def decode(self, content: bytes) -> Image.Image:
        """Return its pixels."""
        return Image.open(io.BytesIO(content)).convert("RGB")

    async def fit(self, photograph: Image.Image) -> Image.Image:
        """Return the reference."""
        sides = Size(*photograph.size).scaled_to_area(TARGET.area).grid
        return photograph.resize((sides.width, sides.height), Image.Resampling.LANCZOS)

    async def encode(self, result: Image.Image) -> bytes:
        """Return the result's file."""
        return _saved(result, "PNG")

    async def store(self, content: bytes) -> object:
        """Return its link."""
        client = boto3.session.Session().client(
            "s3",
            endpoint_url=os.environ["BUCKET_ENDPOINT_URL"],
            aws_access_key_id=os.environ["BUCKET_ACCESS_KEY_ID"],
            aws_secret_access_key=os.environ["BUCKET_SECRET_ACCESS_KEY"],
            region_name="us-east-1",
            config=Config(signature_version="s3v4"),
        )
        place = {"Bucket": embedded_bucket.NAME, "Key": "plain.png"}
        client.put_object(
            Bucket=place["Bucket"], Key=place["Key"], Body=content, ContentType="image/png"
        )
        return client.generate_presigned_url("get_object", Params=place, ExpiresIn=604800)


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
        help="whole ones of each size; baseline and phases a fifth "
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
    """Return the CPU milliseconds of each phase, and of whole jobs."""

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
    before = _spent(servers)
    for _ in range(times):
        await work()
    return (_spent(servers) - before) / times * 1000


def _spent(servers: set[psutil.Process]) -> float:
    """Return the CPU seconds of this process and its children, ended or not, but the servers."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = time.process_time() + ended.ru_utime + ended.ru_stime
    for child in set(psutil.Process().children(recursive=True)) - servers:
        with suppress(psutil.NoSuchProcess):
            times = child.cpu_times()
            spent += times.user + times.system
    return spent


async def _job(bucket: Bucket, size: Size) -> Job:
    photograph = _photograph(size)
    content = _saved(photograph, "JPEG", quality=92)
    file = ResultFile(f"photograph-{size.width}", "jpg", content, "image/jpeg", {})
    return Job(await bucket.store(file), content, photograph, _photograph(TARGET))


def _photograph(size: Size) -> Image.Image:
    """Return noise at every scale, the coarser the stronger, as photographs have it."""
    random = np.random.default_rng(0)
    levels = np.full((size.height, size.width, 3), 128.0, np.float32)
    for cells in (4, 8, 16, 32, 64, 128, 256, 512, 1024):
        noise = random.normal(0, 45 / cells**0.5, (cells, cells, 3)).astype(np.float32)
        for channel in range(3):
            layer = Image.fromarray(noise[..., channel])
            smooth = layer.resize((size.width, size.height), Image.Resampling.BICUBIC)
            levels[..., channel] += np.asarray(smooth)
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8))


def _saved(image: Image.Image, file_format: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
