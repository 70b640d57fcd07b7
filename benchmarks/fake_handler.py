"""A handler for Runpod's SDK that sleeps, and returns how long it took."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any


async def handler(job: Mapping[str, Any]) -> dict[str, float]:
    """Sleep for the job's `seconds`; return its number and the seconds it really took."""
    start = time.perf_counter()
    await asyncio.sleep(job["input"]["seconds"])
    return {"number": job["input"]["number"], "seconds": time.perf_counter() - start}


if __name__ == "__main__":
    import runpod.serverless

    runpod.serverless.start({"handler": handler})
