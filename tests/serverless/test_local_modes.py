"""Runpod's own local modes, from any directory, with the exit codes that the SDK defines."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).parents[2]
HANDLER = ROOT / "handler.py"
JOB: dict[str, Any] = json.loads((ROOT / "test_input.json").read_text())
QUICK = {"input": JOB["input"] | {"size": "256*256", "num_inference_steps": 1}}
WRONG = {"input": JOB["input"] | {"num_inference_steps": 0}}
SENTENCE = "num_inference_steps must be between 1 and 50, got 0"
LAPTOP = {
    "OMP_NUM_THREADS": "1",  # the model is tiny, and other processes want cores too
    "PATH": os.environ["PATH"],
    "HOME": os.environ.get("HOME", "/"),
    "CUDA_VISIBLE_DEVICES": "",
    "MIN_GENERATION_MEGAPIXELS": "0",  # small images, quickly
}
"""No GPU, no bucket and no weights: every part has its stand-in."""

GUARD = 60
"""Seconds after which a worker that hangs fails its test."""


def run(handler: Path, *arguments: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run a worker to its end, from a directory."""
    return subprocess.run(
        [sys.executable, str(handler), *arguments],
        cwd=directory,
        env=LAPTOP,
        capture_output=True,
        text=True,
        timeout=GUARD,
        check=False,
    )


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the SDK's local API."""
    with socket.create_server(("localhost", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, str(HANDLER), "--rp_serve_api", "--rp_api_port", str(port)]
    directory = tmp_path_factory.mktemp("api")
    with subprocess.Popen(command, cwd=directory, env=LAPTOP) as process:
        while process.poll() is None and not listens(port):
            time.sleep(0.1)
        yield f"http://localhost:{port}"
        process.terminate()
        process.wait(GUARD)


def listens(port: int) -> bool:
    """Return whether a local server is ready."""
    with socket.socket() as probe:
        return probe.connect_ex(("localhost", port)) == 0


def answer(api: str, job: dict[str, Any]) -> dict[str, Any]:
    """Return what the SDK's local API answers."""
    response = httpx.post(f"{api}/runsync", json=job, timeout=GUARD)
    assert response.status_code == httpx.codes.OK
    return dict(response.json())


def test_a_plain_run_takes_the_job_beside_the_handler_from_any_directory(tmp_path: Path) -> None:
    """The SDK alone looks into the current directory only."""
    beside = Path(shutil.copy(HANDLER, tmp_path))
    (tmp_path / "test_input.json").write_text(json.dumps(QUICK))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = run(beside, directory=elsewhere)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "Job result: {'output': {'image_url': 'http://127.0.0.1:" in done.stdout


def test_a_job_on_the_command_line_that_fails_ends_with_1(tmp_path: Path) -> None:
    """Its sentence is on the screen."""
    done = run(HANDLER, "--test_input", json.dumps(WRONG), directory=tmp_path)

    assert done.returncode == 1
    assert f"Job local_test failed with error: {SENTENCE}" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_help_is_answered_at_once(tmp_path: Path) -> None:
    """No bucket is started and no model loaded for it."""
    done = run(HANDLER, "--help", directory=tmp_path)

    assert done.returncode == 0
    assert "--rp_serve_api" in done.stdout
    assert "STAND-IN" not in done.stdout


def test_the_local_api_answers_with_an_image(api: str) -> None:
    """Its link opens for as long as the worker runs."""
    done = answer(api, QUICK)

    assert done["status"] == "COMPLETED"
    assert done["output"].keys() == {"image_url", "cost"}
    assert httpx.get(done["output"]["image_url"]).headers["Content-Type"] == "image/png"


def test_the_local_api_answers_with_an_error(api: str) -> None:
    """One sentence, as on Runpod."""
    failed = answer(api, WRONG)

    assert {key: failed[key] for key in ("status", "error")} == {
        "status": "FAILED",
        "error": SENTENCE,
    }
