"""The environment variables of each worker: its GPU or the stand-ins, and the server's addresses.

Knows the variables that `handler.py` and Runpod's SDK read; does not know processes.
"""

import shutil
import subprocess
from collections.abc import Mapping


def worker_environments(
    environment: Mapping[str, str], count: int | None = None
) -> list[Mapping[str, str]]:
    """Return one environment for each worker: one worker for each GPU, or one with the stand-ins.

    Args:
        environment: The variables that all workers share.
        count: The number of workers, if not one for each GPU; they take turns at the GPUs.
    """
    gpus = _gpus(environment)
    if not gpus:
        stand_ins = {"STAND_IN": "model,safety", "RUNPOD_SKIP_GPU_CHECK": "true"}
        return [{**stand_ins, **environment}] * (count or 1)
    return [
        {**environment, "CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]}
        for number in range(count or len(gpus))
    ]


def control_plane(base_url: str, key: str, hung_timeout_seconds: float) -> dict[str, str]:
    """Return the variables that make Runpod's SDK take its jobs from this server.

    Args:
        base_url: The endpoint's address, `http://host:port/v2/endpoint`.
        key: The key that the workers' routes require.
        hung_timeout_seconds: The silence after which a worker is killed; the SDK pings six times
            as often, in whole seconds.
    """
    return {
        "RUNPOD_WEBHOOK_GET_JOB": f"{base_url}/job-take/$ID?gpu=local",
        "RUNPOD_WEBHOOK_POST_OUTPUT": f"{base_url}/job-done/$RUNPOD_POD_ID/$ID?gpu=local",
        "RUNPOD_WEBHOOK_POST_STREAM": f"{base_url}/job-stream/$RUNPOD_POD_ID/$ID?gpu=local",
        "RUNPOD_WEBHOOK_PING": f"{base_url}/ping/$RUNPOD_POD_ID",
        "RUNPOD_PING_INTERVAL": str(max(1, round(hung_timeout_seconds / 6)) * 1000),
        "RUNPOD_AI_API_KEY": key,
        "RUNPOD_ENDPOINT_ID": "local",
        # They check a Runpod host: 8.8.8.8 can be reached, a tenth of the disk is free.
        "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
    }


def _gpus(environment: Mapping[str, str]) -> list[str]:
    """Return the names of the GPUs that may be used; to CUDA, "" and "-1" mean none."""
    if (visible := environment.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in visible.split(",") if name not in {"", "-1"}]
    if not (nvidia_smi := shutil.which("nvidia-smi", path=environment.get("PATH"))):
        return []
    listed = subprocess.run([nvidia_smi, "-L"], capture_output=True, text=True, check=False)
    lines = listed.stdout.splitlines()
    return [str(number) for number in range(sum(line.startswith("GPU ") for line in lines))]
