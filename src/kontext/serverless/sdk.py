"""Starts Runpod's SDK: chooses its mode, runs the boot as fitness checks, posts progress.

`kontext.logs.configure` must have run before this module, or another of its package, imports
`runpod`.
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
from kontext.serverless.boot_failure import as_fitness_check
from kontext.serverless.job_loop import MAX_JOBS, install_job_loop
from kontext.serverless.result_post import retry_for_minutes
from kontext.settings import Settings
from kontext.startup.boot import Boot
from kontext.worker import Job

Handler = Callable[[Job], Awaitable[dict[str, Any]]]


def start(settings: Settings, test_input: Path) -> None:
    """Boot the worker and hand the process to the SDK.

    Args:
        settings: The deployer's settings.
        test_input: The file with the job of a local run, for when neither the command line nor
            the current directory has one.
    """
    arguments, _ = (
        runpod.serverless.parser.parse_known_args()
    )  # answers --help before anything is loaded
    boot = Boot(settings, post_progress)
    if _runs_the_loop(arguments):
        for step in boot.steps:
            runpod.serverless.register_fitness_check(as_fitness_check(step))
    else:
        _boot_now(boot)
        _default_test_input(arguments, test_input)
    hand_over(boot.run, boot.prefetch, boot.executor, settings.shutdown_seconds)


def refuse(error: SettingsError) -> None:
    """Make the SDK report a wrong setting as a failed check, and end the process.

    Returns only where the SDK would fetch no jobs from Runpod and so runs no checks.
    """

    def settings() -> None:
        raise error

    arguments, _ = runpod.serverless.parser.parse_known_args()
    if _runs_the_loop(arguments):
        runpod.serverless.register_fitness_check(as_fitness_check(settings))
        runpod.serverless.start({"handler": lambda _: {}})


def hand_over(
    handler: Handler, prefetch: Prefetch, executor: GpuExecutor, shutdown_seconds: float
) -> None:
    """Hand the process to the SDK, which runs `handler` on each job that it fetches.

    Args:
        handler: The function that runs one job.
        prefetch: What says when the next job is to be fetched.
        executor: The GPU thread that `handler` uses; if it hangs, the worker shuts down.
        shutdown_seconds: How long a worker that shuts down may take to finish its jobs.
    """
    install_job_loop(prefetch, executor, shutdown_seconds)
    retry_for_minutes()
    runpod.serverless.start({"handler": handler, "concurrency_modifier": lambda _: MAX_JOBS})


async def post_progress(job: Job, progress: Progress) -> None:
    """Post one update and wait until it has arrived; do nothing outside of Runpod."""
    if "RUNPOD_WEBHOOK_POST_OUTPUT" in os.environ:
        async with AsyncClientSession() as session:
            await send_result(session, {"status": "IN_PROGRESS", "output": progress}, job)


def _runs_the_loop(arguments: Namespace) -> bool:
    """Return whether the SDK will fetch jobs from Runpod; only then does it run fitness checks."""
    local = arguments.rp_serve_api or arguments.test_input or "RUNPOD_REALTIME_PORT" in os.environ
    return "RUNPOD_WEBHOOK_GET_JOB" in os.environ and not local


def _boot_now(boot: Boot) -> None:
    try:
        for step in boot.steps:
            step()
    except BootError as error:
        sys.exit(f"The worker cannot start: {error}")


def _default_test_input(arguments: Namespace, test_input: Path) -> None:
    """Give a local run its job, because the SDK looks for one only in the current directory."""
    local_run = not (arguments.rp_serve_api or arguments.test_input)
    if local_run and not Path("test_input.json").exists():
        sys.argv += ["--test_input", test_input.read_text()]
