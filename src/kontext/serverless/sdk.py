"""Runpod's SDK: which of its modes runs, the boot steps as its fitness checks, progress posts.

Only this module, `kontext.serverless.job_loop`, `kontext.serverless.result_post` and
`kontext.serverless.boot_failure` import `runpod`, and `kontext.logs.configure` must have run before
them.
"""

import os
import sys
from argparse import Namespace
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import runpod.serverless
from runpod.http_client import AsyncClientSession
from runpod.serverless.modules.rp_http import send_result

from kontext.errors import BootError, SettingsError
from kontext.inference.executor import GpuExecutor
from kontext.jobs.prefetch import Prefetch
from kontext.jobs.progress import Progress
from kontext.serverless.boot_failure import answering
from kontext.serverless.job_loop import MOST_JOBS, take_jobs
from kontext.serverless.result_post import retry_for_minutes
from kontext.settings import Settings
from kontext.startup.boot import Boot
from kontext.worker import Job

Handler = Callable[[Job], Awaitable[dict[str, Any]]]


def start(settings: Settings, test_input: Path) -> None:
    """Boot the worker and hand the process to the SDK.

    Args:
        settings: What the deployer set.
        test_input: The job of a local run, when neither the command line nor the current
            directory names another.
    """
    arguments, _ = runpod.serverless.parser.parse_known_args()  # answers --help at once
    boot = Boot(settings, post_progress)
    if _runs_the_loop(arguments):
        for step in boot.steps:
            runpod.serverless.register_fitness_check(answering(step))
    else:
        _boot_now(boot)
        _default_test_input(arguments, test_input)
    hand_over(boot.run, boot.prefetch, boot.executor, settings.shutdown_seconds)


def refuse(error: SettingsError) -> None:
    """Have the SDK report a wrong setting as a check that failed, and end the process.

    Returns only where the SDK would take no jobs from Runpod, and so runs no checks.
    """

    def settings() -> None:
        raise error

    arguments, _ = runpod.serverless.parser.parse_known_args()
    if _runs_the_loop(arguments):
        runpod.serverless.register_fitness_check(answering(settings))
        runpod.serverless.start({"handler": lambda _: {}})


def hand_over(
    handler: Handler, prefetch: Prefetch, executor: GpuExecutor, shutdown_seconds: float
) -> None:
    """Give the process to the SDK, which runs `handler` on jobs that it takes at `prefetch`.

    Args:
        handler: Runs one job.
        prefetch: Says when another is wanted.
        executor: Where `handler` edits; a worker whose executor hangs ends.
        shutdown_seconds: What a worker that must end gets to finish its jobs.
    """
    take_jobs(prefetch, executor, shutdown_seconds)
    retry_for_minutes()
    runpod.serverless.start({"handler": handler, "concurrency_modifier": lambda _: MOST_JOBS})


async def post_progress(job: Job, progress: Progress) -> None:
    """Post one update and return when it has landed; does nothing off Runpod."""
    if "RUNPOD_WEBHOOK_POST_OUTPUT" in os.environ:
        async with AsyncClientSession() as session:
            await send_result(session, {"status": "IN_PROGRESS", "output": progress}, job)


def _runs_the_loop(arguments: Namespace) -> bool:
    """Tell whether the SDK will take jobs from Runpod; only then does it run fitness checks."""
    local = arguments.rp_serve_api or arguments.test_input or "RUNPOD_REALTIME_PORT" in os.environ
    return "RUNPOD_WEBHOOK_GET_JOB" in os.environ and not local


def _boot_now(boot: Boot) -> None:
    try:
        for step in boot.steps:
            step()
    except BootError as error:
        sys.exit(f"The worker cannot start: {error}")


def _default_test_input(arguments: Namespace, test_input: Path) -> None:
    """Make a local run independent of the current directory, where alone the SDK looks."""
    local_run = not (arguments.rp_serve_api or arguments.test_input)
    if local_run and not Path("test_input.json").exists():
        sys.argv += ["--test_input", test_input.read_text()]
