"""What is handed to Runpod's SDK: the boot steps, the handler, the settings and the progress."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import runpod.serverless
from runpod.serverless.modules import rp_fitness, rp_http, rp_scale

from kontext.errors import SettingsError
from kontext.inference.executor import GpuExecutor
from kontext.jobs.prefetch import Prefetch
from kontext.jobs.progress import Progress
from kontext.serverless import job_loop, result_post, sdk
from kontext.settings import Settings
from kontext.worker import Job
from tests.serverless.test_result_post import Endpoint, served

pytestmark = pytest.mark.usefixtures("clean_environment")

TEST_INPUT = Path(__file__).parents[2] / "test_input.json"
PROGRESS: Progress = {"step": 1, "steps": 2, "percent": 50}


class Sdk:
    """Notes what the SDK is started with, in the place of its `start`."""

    def __init__(self) -> None:
        self.config: dict[str, Any] = {}

    def __call__(self, config: dict[str, Any]) -> None:
        self.config = config

    @property
    def checks(self) -> list[str]:
        """Names of the fitness checks that it would run first."""
        return [check.__name__ for check in rp_fitness._fitness_checks]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sdk]:
    """The SDK on a command line without arguments; whatever is changed in it is put back."""
    started = Sdk()
    monkeypatch.setattr("sys.argv", ["handler.py"])
    monkeypatch.setattr(runpod.serverless, "start", started)
    monkeypatch.setattr(rp_scale, "JobScaler", rp_scale.JobScaler)
    monkeypatch.setattr(rp_http, "_transmit", rp_http._transmit)
    rp_fitness.clear_fitness_checks()
    yield started
    rp_fitness.clear_fitness_checks()


@pytest.fixture
def on_runpod(clean_environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment as Runpod's."""
    monkeypatch.setenv("RUNPOD_WEBHOOK_GET_JOB", "http://127.0.0.1:9/job-take/$ID")


async def answer(job: Job) -> dict[str, Any]:
    """Run no job."""
    return {}


# --- Start


@pytest.mark.usefixtures("on_runpod")
def test_on_runpod_the_boot_steps_are_fitness_checks(started: Sdk) -> None:
    """The SDK runs them before it takes a job, and reports the name of one that fails."""
    sdk.start(Settings.load(), TEST_INPUT)

    assert started.checks == ["bucket", "gpu", "safety_checker", "weights"]
    assert callable(started.config["handler"])


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        pytest.param([], {}, id="off-runpod"),
        pytest.param(["--rp_serve_api"], {"RUNPOD_WEBHOOK_GET_JOB": "x"}, id="local-api"),
        pytest.param(["--test_input", "{}"], {"RUNPOD_WEBHOOK_GET_JOB": "x"}, id="one-job"),
        pytest.param(
            [], {"RUNPOD_WEBHOOK_GET_JOB": "x", "RUNPOD_REALTIME_PORT": "1"}, id="realtime"
        ),
    ],
)
def test_where_the_sdk_takes_no_jobs_a_boot_that_fails_ends_the_process(
    started: Sdk, monkeypatch: pytest.MonkeyPatch, arguments: list[str], environment: dict[str, str]
) -> None:
    """It runs no fitness checks there: the worker boots at once, and says why it cannot."""
    monkeypatch.setattr("sys.argv", ["handler.py", *arguments])
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    settings = Settings.load(bucket_name="results", bucket_endpoint_url="http://127.0.0.1:9")

    with pytest.raises(SystemExit, match=r"^The worker cannot start: BUCKET_ACCESS_KEY_ID is not"):
        sdk.start(settings, TEST_INPUT)
    assert started.config == {}
    assert started.checks == []


# --- Wrong settings


@pytest.mark.usefixtures("on_runpod")
async def test_on_runpod_a_wrong_setting_is_a_check_that_fails(started: Sdk) -> None:
    """Runpod is told its name as that of the check, and the sentence as the reason."""
    sdk.refuse(SettingsError("MODE should be 'auto'"))
    (check,) = rp_fitness._fitness_checks

    assert check.__name__ == "settings"
    with pytest.raises(SettingsError, match=r"^MODE should be 'auto'$"):
        await check()


def test_off_runpod_a_wrong_setting_is_the_callers_to_report(started: Sdk) -> None:
    """The SDK is not started, since it would run the local job without checks."""
    sdk.refuse(SettingsError("MODE should be 'auto'"))

    assert (started.config, started.checks) == ({}, [])


# --- The hand-over


def test_the_sdk_gets_the_handler_and_our_loop_and_our_posts(started: Sdk) -> None:
    """It may run as many jobs as the loop takes at most, which is asked whatever it runs now."""
    sdk.hand_over(answer, Prefetch(1), GpuExecutor(), shutdown_seconds=5)

    assert started.config["handler"] is answer
    assert [started.config["concurrency_modifier"](now) for now in (1, 8)] == [
        job_loop.MAX_JOBS,
        job_loop.MAX_JOBS,
    ]
    assert rp_scale.JobScaler.func is job_loop.Scaler
    assert rp_http._transmit is result_post.post


# --- Progress


async def test_progress_is_posted_as_the_documented_update(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """To the address that Runpod set, for the job's id."""
    endpoint = Endpoint(200)
    async with served(endpoint) as (_, url):
        address = url.replace("/job-1?", "/$ID?")
        monkeypatch.setenv("RUNPOD_WEBHOOK_POST_OUTPUT", address)
        monkeypatch.setattr(rp_http, "JOB_DONE_URL", address)
        await sdk.post_progress({"id": "job-1", "input": {}}, PROGRESS)

    ((job_id, body),) = endpoint.sent
    assert (job_id, json.loads(body)) == ("job-1", {"status": "IN_PROGRESS", "output": PROGRESS})


async def test_off_runpod_nothing_is_posted(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nobody who could receive it."""
    endpoint = Endpoint(200)
    async with served(endpoint) as (_, url):
        monkeypatch.setattr(rp_http, "JOB_DONE_URL", url)
        await sdk.post_progress({"id": "job-1", "input": {}}, PROGRESS)

    assert endpoint.sent == []
