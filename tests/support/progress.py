"""Progress posts for tests that need none."""

from kontext.jobs.progress import Progress
from kontext.worker import Job


async def post_nothing(job: Job, progress: Progress) -> None:
    """Do not post."""
