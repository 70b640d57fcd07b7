"""The environment that each worker is started with."""

from pathlib import Path

import pytest

from kontext.local.worker_environment import control_plane, worker_environments


@pytest.mark.parametrize(
    ("visible", "count", "devices"),
    [
        pytest.param(None, None, ["0", "1"], id="all"),
        pytest.param("3,GPU-5", None, ["3", "GPU-5"], id="visible-ones"),
        pytest.param(None, 3, ["0", "1", "0"], id="more-workers-than-gpus"),
        pytest.param(None, 1, ["0"], id="fewer"),
        pytest.param("", None, [None], id="none"),
        pytest.param("-1", 2, [None, None], id="none-for-two"),
    ],
)
def test_there_is_one_worker_for_each_gpu(
    visible: str | None, count: int | None, devices: list[str | None], tmp_path: Path
) -> None:
    """Each worker sees its own GPU; without a GPU, workers use the stand-ins."""
    nvidia_smi = tmp_path / "nvidia-smi"
    nvidia_smi.write_text(
        "#!/bin/sh\necho 'GPU 0: NVIDIA A'\necho '  MIG'\necho 'GPU 1: NVIDIA B'\n"
    )
    nvidia_smi.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/bin:/usr/bin"}
    if visible is not None:
        environment["CUDA_VISIBLE_DEVICES"] = visible
    workers = worker_environments(environment, count)

    without = [worker.get("STAND_IN") for worker in workers]
    assert without == [None if device else "model,safety" for device in devices]
    if devices[0]:
        assert [worker["CUDA_VISIBLE_DEVICES"] for worker in workers] == devices


@pytest.mark.parametrize(("timeout", "interval"), [(30.0, "5000"), (4.0, "1000"), (0.5, "1000")])
def test_several_pings_fit_into_the_timeout(timeout: float, interval: str) -> None:
    """The SDK pings six times as often, in whole seconds, given in milliseconds."""
    environment = control_plane("http://127.0.0.1:8000/v2/local", "key", timeout)

    assert environment["RUNPOD_PING_INTERVAL"] == interval
