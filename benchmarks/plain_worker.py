"""The baseline: a synchronous handler, one thing after another, as Runpod's own workers are."""

import os
import time
from pathlib import Path
from typing import Any

import runpod.serverless

FETCH, LANE, STORE = (float(os.environ[name]) for name in ("FETCH", "GPU", "STORE"))
"""Seconds that each takes."""


def handler(_job: dict[str, Any]) -> dict[str, Any]:
    """Fetch, edit, store."""
    time.sleep(FETCH)
    began = time.time()
    time.sleep(LANE)
    with Path(os.environ["LANE"]).open("a") as executor:
        executor.write(f"{began} {time.time()} {os.environ['RUNPOD_POD_ID']}\n")
    time.sleep(STORE)
    return {"image_url": "https://bucket.invalid/x", "cost": 0.0}


if __name__ == "__main__":
    runpod.serverless.start({"handler": handler})
