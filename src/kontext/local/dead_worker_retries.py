"""How often a job whose worker died is retried, and with which other jobs it may run.

Knows the rules only; `store` applies them within its transactions.
"""

from kontext.local.job_table import Job
from kontext.local.jobs import Status

MAX_DEATHS = 3
"""Workers that may die while they run a job; then the job fails."""

GIVEN_UP = f"The job was given up: {MAX_DEATHS} workers died that had taken it"


def requeue_or_fail(job: Job, died: bool, now: float) -> None:
    """Requeue a job whose worker has ended, or fail it after `MAX_DEATHS` deaths.

    Args:
        job: A job that the worker was running.
        died: Whether the worker ended by itself, which counts against the job; a worker that was
            shut down or replaced does not.
        now: The current time, in seconds since the epoch.
    """
    job.deaths += died
    if job.deaths < MAX_DEATHS:
        job.requeue()
    else:
        job.end(Status.FAILED, {"error": GIVEN_UP}, now)


def may_run_together(job: Job, running_deaths: int | None) -> bool:
    """Tell whether a worker may start a job beside those that it runs.

    A job whose worker died may have killed it. It gets a worker to itself: otherwise it could kill
    the worker again, and other jobs would be given up for that.

    Args:
        job: The next job.
        running_deaths: The most deaths of any job that the worker runs; `None` if it runs none.
    """
    return running_deaths is None or max(running_deaths, job.deaths) == 0
