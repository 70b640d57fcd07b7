"""Measure what `kontext.local` costs: under load, and for one job beside the SDK's local server.

Under load, clients send jobs by /run and poll /status. Workers in this process take the jobs by the
calls that Runpod's SDK makes, because the SDK itself takes no more than one job a second.

Without load, jobs are sent one after another by /runsync, and their handler's time is subtracted.
With a worker of this process the rest is the server's cost alone; with the real SDK it includes the
SDK's loop, which looks for a taken job every 0.1 s; with `--rp_serve_api` it is the cost of the
SDK's own local server, which has neither a queue nor a worker process.
"""

import argparse
import asyncio
import json
import random
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

import aiohttp
from fake_handler import handler
from local_servers import ControlPlane, our_server, rp_serve_api

POLL_SECONDS = 0.1, 0.3
"""Range of the random pause between two polls of a client."""

REST_SECONDS = 1.2, 1.3
"""Range of the random pause after a job without load. The SDK's loop first sleeps a second and then
looks every 0.1 s; a constant pause would always meet it in the same phase."""

RANDOM = random.Random(0)  # noqa: S311 - no secret

Found = dict[str, float]


def main() -> None:
    """Measure, and print a table and one line of JSON."""
    arguments = _parser().parse_args()
    found = asyncio.run(_measure(arguments))
    for name, value in found.items():
        print(f"{name:34} {value:10g}")
    print(json.dumps(found))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python benchmarks/local_server.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--jobs", type=int, default=1000, help="under load; default 1000")
    parser.add_argument("--clients", type=int, default=100, help="at once; default 100")
    parser.add_argument("--workers", type=int, default=8, help="at once; default 8")
    parser.add_argument("--single", type=int, default=30, help="jobs without load; default 30")
    parser.add_argument(
        "--seconds", type=float, default=0.05, help="seconds of a job; default 0.05"
    )
    return parser


async def _measure(arguments: argparse.Namespace) -> Found:
    found = await _under_load(arguments)
    async with our_server() as (url, plane), _working(1, plane, Counter()):
        found |= await _overheads("server alone", f"{url}/v2/any", arguments)
    async with our_server(sdk_workers=1) as (url, _):
        found |= await _overheads("server and SDK worker", f"{url}/v2/any", arguments)
    async with rp_serve_api() as url:
        found |= await _overheads("rp_serve_api", url, arguments)
    return found


# ---- Under load


async def _under_load(arguments: argparse.Namespace) -> Found:
    numbers, latencies, taken = iter(range(arguments.jobs)), list[float](), Counter[str]()
    async with (
        our_server() as (url, plane),
        _working(arguments.workers, plane, taken),
        aiohttp.ClientSession(f"{url}/v2/any/", connector=aiohttp.TCPConnector(limit=0)) as session,
    ):
        start = time.perf_counter()
        clients = (
            _client(session, numbers, arguments.seconds, latencies)
            for _ in range(arguments.clients)
        )
        jobs = [job for mine in await asyncio.gather(*clients) for job in mine]
        seconds = time.perf_counter() - start
    answered = Counter(job["output"]["number"] for job in jobs if job["status"] == "COMPLETED")
    percentiles = statistics.quantiles(latencies, n=100)
    return {
        "jobs": arguments.jobs,
        "clients": arguments.clients,
        "lost": arguments.jobs - len(answered),
        "doubled": answered.total() - len(answered) + taken.total() - len(taken),
        "jobs per second": round(arguments.jobs / seconds, 1),
        "status p50, ms": round(percentiles[49] * 1000, 2),
        "status p99, ms": round(percentiles[98] * 1000, 2),
    }


async def _client(
    session: aiohttp.ClientSession, numbers: Iterator[int], seconds: float, latencies: list[float]
) -> list[dict[str, Any]]:
    """Run one job after another until no numbers are left; return the finished jobs."""
    jobs = []
    for number in numbers:
        async with session.post("run", json=_body(number, seconds)) as answer:
            job = await answer.json()
        while job["status"] in {"IN_QUEUE", "IN_PROGRESS"}:
            await asyncio.sleep(RANDOM.uniform(*POLL_SECONDS))
            start = time.perf_counter()
            async with session.get(f"status/{job['id']}") as answer:
                job = await answer.json()
            latencies.append(time.perf_counter() - start)
        jobs.append(job)
    return jobs


def _body(number: int, seconds: float) -> dict[str, Any]:
    return {"input": {"number": number, "seconds": seconds}}


@asynccontextmanager
async def _working(count: int, plane: ControlPlane, taken: Counter[str]) -> AsyncIterator[None]:
    """Run workers during the block, and count how often each job is taken."""
    headers = {"Authorization": plane["RUNPOD_AI_API_KEY"]}
    async with aiohttp.ClientSession(headers=headers) as session:
        names = [f"worker-{number}" for number in range(count)]
        working = [asyncio.create_task(_work(session, plane, name, taken)) for name in names]
        try:
            yield
        finally:
            for task in working:
                task.cancel()


async def _work(
    session: aiohttp.ClientSession, plane: ControlPlane, name: str, taken: Counter[str]
) -> None:
    take = plane["RUNPOD_WEBHOOK_GET_JOB"].replace("$ID", name)
    done = plane["RUNPOD_WEBHOOK_POST_OUTPUT"].replace("$RUNPOD_POD_ID", name)
    while True:
        async with session.get(take) as answer:
            if answer.status == HTTPStatus.NO_CONTENT:
                continue
            job = await answer.json()
        taken[job["id"]] += 1
        body = json.dumps({"output": await handler(job)})
        async with session.post(done.replace("$ID", job["id"]), data=body):
            pass


# ---- Without load


async def _overheads(what: str, url: str, arguments: argparse.Namespace) -> Found:
    """Return the milliseconds that a job takes beyond its handler."""
    overheads = []
    async with aiohttp.ClientSession(f"{url}/") as session:
        for number in range(arguments.single + 1):
            start = time.perf_counter()
            async with session.post("runsync", json=_body(number, arguments.seconds)) as answer:
                job = await answer.json()
            overheads.append((time.perf_counter() - start - job["output"]["seconds"]) * 1000)
            await asyncio.sleep(RANDOM.uniform(*REST_SECONDS))
    del overheads[0]  # the first job waited for the worker to start
    return {
        f"{what}, median, ms": round(statistics.median(overheads), 2),
        f"{what}, worst, ms": round(max(overheads), 2),
    }


if __name__ == "__main__":
    main()
