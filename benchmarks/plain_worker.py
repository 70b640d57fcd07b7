"""Run the baseline: a synchronous handler, one step after another, like Runpod's own workers."""

import os
import time
from pathlib import Path
from typing import Any

import runpod.serverless

FETCH_SECONDS = float(os.environ["FETCH_SECONDS"])
GPU_SECONDS = float(os.environ["GPU_SECONDS"])
STORE_SECONDS = float(os.environ["STORE_SECONDS"])


def handler(_job: dict[str, Any]) -> dict[str, Any]:
    """Sleep for fetching, GPU and storing, and note the turn on the GPU."""
    time.sleep(FETCH_SECONDS)
    began = time.time()
    time.sleep(GPU_SECONDS)
    with Path(os.environ["TURNS_FILE"]).open("a") as turns:
        turns.write(f"{began} {time.time()} {os.environ['RUNPOD_POD_ID']}\n")
    time.sleep(STORE_SECONDS)
    return {"image_url": "https://bucket.invalid/x", "cost": 0.0}


if __name__ == "__main__":
    runpod.serverless.start({"handler": handler})
