"""A handler for Runpod's SDK that only takes its time, and says how much of it."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any


async def handler(job: Mapping[str, Any]) -> dict[str, float]:
    """Wait for as long as the job says; return its number and the time that it took."""
    start = time.perf_counter()
    await asyncio.sleep(job["input"]["seconds"])
    return {"number": job["input"]["number"], "seconds": time.perf_counter() - start}


if __name__ == "__main__":
    import runpod.serverless

    runpod.serverless.start({"handler": handler})
