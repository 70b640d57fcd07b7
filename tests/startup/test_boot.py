"""What a worker refuses to start without, and where a stand-in replaces it."""

import json
import logging
import tempfile
from pathlib import Path
from typing import Any

import pytest

from kontext.errors import BootError, boot_failure_sentence
from kontext.local.jobs import Status
from kontext.settings import Settings
from kontext.startup.boot import Boot
from kontext.storage import embedded_bucket
from tests.support.endpoint import serve_endpoint, start_worker
from tests.support.progress import post_nothing

ROOT = Path(__file__).parents[2]
TEST_INPUT = json.loads((ROOT / "test_input.json").read_text())
NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}


def boot(**settings: Any) -> Boot:
    """Return a boot on a machine without a bucket and a safety checker, with these settings."""
    nothing = {"bucket_name": None, "bucket_endpoint_url": None, "safety_model_path": "/nowhere"}
    return Boot(Settings.load(**nothing | settings), post_nothing)


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        pytest.param({"LINK_SECONDS": "0"}, "LINK_SECONDS should be greater", id="range"),
        pytest.param({"MODE": "slow"}, "MODE should be 'auto', 'exact', 'fast' or ", id="mode"),
        pytest.param({"STAND_IN": "gpu"}, "STAND_IN should be 'model', ", id="choice"),
        pytest.param({"RUNPOD_LOG_LEVEL": "loud"}, "RUNPOD_LOG_LEVEL must be one of", id="level"),
    ],
)
async def test_a_wrong_setting_ends_the_process_with_one_sentence_that_names_it(
    tmp_path: Path, environment: dict[str, str], sentence: str
) -> None:
    """The process ends before it imports anything large."""
    async with start_worker(ROOT / "handler.py", environment, tmp_path / "log") as worker:
        assert await worker.exit_code() == 1
        assert worker.log.startswith(f"The worker cannot start: {sentence}")
        assert worker.log.count("\n") == 1


@pytest.mark.parametrize(
    ("stand_in", "check", "reason"),
    [
        pytest.param("model,safety", "bucket", "BUCKET_NAME is not set", id="bucket"),
        pytest.param("bucket,safety", "gpu", "no CUDA device is available", id="gpu"),
        pytest.param(
            "bucket,model",
            "safety_checker",
            "SAFETY_MODEL_PATH /nowhere is not a directory",
            id="safety-checker",
        ),
    ],
)
async def test_in_production_a_worker_that_lacks_a_part_ends_and_names_it(
    tmp_path: Path, stand_in: str, check: str, reason: str
) -> None:
    """No stand-in is used automatically; Runpod reads which check failed, and one sentence why.

    The caller of one waiting job reads which check failed, but not why. Another waiting job is
    left to other workers.
    """
    async with serve_endpoint(tmp_path) as endpoint:
        lacking = {"STAND_IN": stand_in, "SAFETY_MODEL_PATH": "/nowhere", **NO_GPU}
        environment = endpoint.environment | lacking
        failed, waiting = endpoint.send(TEST_INPUT["input"]), endpoint.send(TEST_INPUT["input"])
        async with start_worker(ROOT / "handler.py", environment, tmp_path / "log") as worker:
            assert await worker.exit_code() == 1
        (post,) = endpoint.recorder.posts
        assert post == {"id": failed, "error": boot_failure_sentence(check)}
        status = await endpoint.served.client.status(failed)
        assert status["error"] == boot_failure_sentence(check)
        assert await endpoint.status(waiting) == Status.IN_QUEUE

    (ping,) = endpoint.recorder.pings
    assert (ping["status"], ping["check"]) == ("unhealthy", check)
    assert ping["reason"].startswith(f"BootError: {reason}")
    assert f"Fitness check failed: {check} | BootError: {reason}" in worker.log
    assert "Traceback" not in worker.log


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        pytest.param("LINK_SECONDS", "0", "LINK_SECONDS should be greater", id="range"),
        pytest.param("RUNPOD_LOG_LEVEL", "loud", "RUNPOD_LOG_LEVEL must be one of", id="level"),
    ],
)
async def test_in_production_a_wrong_setting_is_reported_like_a_failed_check(
    tmp_path: Path, name: str, value: str, reason: str
) -> None:
    """Runpod and the log get the reason; the caller of one waiting job gets only the check."""
    async with serve_endpoint(tmp_path) as endpoint:
        environment = endpoint.environment | {name: value}
        failed = endpoint.send(TEST_INPUT["input"])
        async with start_worker(ROOT / "handler.py", environment, tmp_path / "log") as worker:
            assert await worker.exit_code() == 1

    (post,), (ping,) = endpoint.recorder.posts, endpoint.recorder.pings
    assert post == {"id": failed, "error": boot_failure_sentence("settings")}
    assert ping["check"] == "settings"
    assert ping["reason"].startswith(f"SettingsError: {reason}")
    assert f"Fitness check failed: settings | SettingsError: {reason}" in worker.log
    assert "Traceback" not in worker.log


async def test_in_production_a_worker_that_cannot_start_ends_also_without_a_waiting_job(
    tmp_path: Path,
) -> None:
    """It waits for a job no longer than a waiting job would take to arrive."""
    async with (
        serve_endpoint(tmp_path) as endpoint,
        start_worker(ROOT / "handler.py", endpoint.environment, tmp_path / "log") as worker,
    ):
        assert await worker.exit_code() == 1

    assert not endpoint.recorder.posts
    assert "no waiting job was told" in worker.log
    assert "Traceback" not in worker.log


def test_a_temporary_directory_that_cannot_be_written_is_one_clear_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only the stand-in for the bucket needs one."""
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    with pytest.raises(BootError, match=r"^the temporary directory cannot be written, .*TMPDIR"):
        boot(stand_in={"bucket"}).bucket()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        pytest.param(
            {"model_path": "/nowhere"}, "MODEL_PATH /nowhere holds no model_index.json", id="path"
        ),
        pytest.param(
            {"model_id": "nobody/nothing"},
            "no weights of nobody/nothing in Runpod's model cache, .*: accept the licence at "
            "https://huggingface.co/nobody/nothing, .* or set MODEL_PATH",
            id="search",
        ),
    ],
)
def test_in_production_missing_weights_are_refused_with_what_to_do(
    settings: dict[str, str], sentence: str
) -> None:
    """A gated model that was not downloaded looks like any other missing model."""
    with pytest.raises(BootError, match=f"^{sentence}$"):
        boot(runpod_endpoint_id="endpoint-1", **settings).weights()


def test_the_slow_steps_come_last() -> None:
    """A worker that cannot serve must not load the weights for minutes first."""
    steps = [step.__name__ for step in boot().steps]

    assert steps == [
        "pause_garbage_collection",
        "start_imports",
        "bucket",
        "finish_imports",
        "gpu",
        "safety_checker",
        "weights",
        "resume_garbage_collection",
    ]


async def test_a_laptop_without_anything_gets_every_stand_in_and_a_banner_for_each(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Few prompts have an effect, but the link opens; the banners say so."""
    laptop = boot(stand_in={"model"}, min_generation_megapixels=0)
    with caplog.at_level(logging.WARNING, "kontext"):
        for step in laptop.steps:
            step()
    ours = [record for record in caplog.records if record.name == "kontext"]
    banners = [record.getMessage().partition(":")[0] for record in ours]
    data = TEST_INPUT["input"] | {"size": "256*256", "num_inference_steps": 1}
    result = await laptop.run({"id": "job-1", "input": data})

    assert banners == ["STAND-IN bucket", "STAND-IN safety checker", "STAND-IN model"]
    assert result.keys() == {"image_url", "cost"}


def test_a_bucket_that_is_named_never_falls_back_to_a_stand_in(tmp_path: Path) -> None:
    """A deployer who names a bucket wants that bucket or no worker, also on a laptop."""
    with embedded_bucket.serve(tmp_path) as environment:
        given = {name.lower(): value for name, value in environment.items()}
        boot(**given).bucket()
        wrong = given | {"bucket_secret_access_key": "wrong"}
        with pytest.raises(BootError, match=r"^bucket kontext cannot be written: "):
            boot(**wrong).bucket()


async def test_a_job_before_the_boot_is_refused() -> None:
    """The SDK runs the steps first; a worker must not serve before all have run."""
    with pytest.raises(BootError):
        await boot().run({"id": "job-1", "input": {}})
