"""What each worker runs with: one for each GPU, or the stand-ins."""

import shutil
import subprocess
from collections.abc import Mapping


def worker_environments(
    environment: Mapping[str, str], count: int | None = None
) -> list[Mapping[str, str]]:
    """Return a worker's environment for each GPU; without any, the stand-ins' by name.

    Args:
        environment: What all have in common.
        count: As many, in place of one for each GPU.
    """
    gpus = _gpus(environment)
    if not gpus:
        stand_ins = {"STAND_IN": "model,safety", "RUNPOD_SKIP_GPU_CHECK": "true"}
        return [{**stand_ins, **environment}] * (count or 1)
    return [
        {**environment, "CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]}
        for number in range(count or len(gpus))
    ]


def _gpus(environment: Mapping[str, str]) -> list[str]:
    """Name the GPUs that we may use; to CUDA, "" and "-1" mean none."""
    if (visible := environment.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in visible.split(",") if name not in {"", "-1"}]
    if not (nvidia_smi := shutil.which("nvidia-smi", path=environment.get("PATH"))):
        return []
    listed = subprocess.run([nvidia_smi, "-L"], capture_output=True, text=True, check=False)
    lines = listed.stdout.splitlines()
    return [str(number) for number in range(sum(line.startswith("GPU ") for line in lines))]
