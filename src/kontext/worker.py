"""Runs one job from `input` to `{"image_url", "cost"}` or `{"error"}`.

Knows the order of the steps and what a caller may read; its collaborators do the steps.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from PIL import Image

from kontext import __version__
from kontext.address_policy import address_policy
from kontext.contract.request import EditRequest, unknown_keys
from kontext.contract.size import Size
from kontext.errors import UnsafeImage, WorkerShutdown
from kontext.images import reference
from kontext.images.encode import encode
from kontext.images.fetch import ImageFetcher
from kontext.images.provenance import Provenance
from kontext.inference.edit import Checker, Edit, Editor
from kontext.inference.executor import GpuExecutor, Stop
from kontext.jobs.failures import Failures
from kontext.jobs.prefetch import Prefetch, TrackedJob
from kontext.jobs.progress import Progress, ProgressReporter
from kontext.jobs.timings import Timings
from kontext.logs import JobLog
from kontext.settings import Settings
from kontext.storage.caller_bucket import CallerBucket
from kontext.storage.result_file import ResultFile, Storage
from kontext.threads import deliver_errors

Job = Mapping[str, Any]
PostProgress = Callable[[Job, Progress], Awaitable[None]]

MAX_DRAWN_SEED = 2**32 - 1
"""A drawn seed stays exact in every client's numbers (JavaScript's end at 2^53)."""


class Worker:
    """Runs jobs; one for the life of the process.

    Args:
        settings: Limits and prices.
        fetcher: The source of input images.
        editor: The model; it runs on the GPU thread.
        checker: The safety checker of results; it runs on the GPU thread.
        storage: The bucket for results; a job's `s3Config` replaces it for that job.
        post_progress: Tells Runpod how many steps of a job are done.
        executor: The GPU thread.
        prefetch: The tracker of jobs that decides when the next one is fetched.
    """

    def __init__(
        self,
        settings: Settings,
        fetcher: ImageFetcher,
        editor: Editor,
        checker: Checker,
        storage: Storage,
        post_progress: PostProgress,
        executor: GpuExecutor,
        prefetch: Prefetch | None = None,
    ) -> None:
        self._settings = settings
        self._fetcher = fetcher
        self._editor = editor
        self._checker = checker
        self._storage = storage
        self._post_progress = post_progress
        self._prefetch = prefetch or Prefetch(settings.prefetch_seconds)
        self._executor = executor
        self._request = settings.request
        self._failures = Failures(settings.max_internal_errors)

    async def run(self, job: Job) -> dict[str, Any]:
        """Run one job in the form in which Runpod delivers it.

        Returns:
            `{"image_url", "cost"}`, or `{"error"}` with one public sentence, and then perhaps
            `"refresh_worker": True`.

        Raises:
            CancelledError: The caller cancelled the job. Nothing else is raised, because the SDK
                would send the traceback to the caller.
        """
        log = JobLog(str(job.get("id")))
        try:
            with self._prefetch.track() as tracked:
                output = await self._run(job, tracked, log)
        except asyncio.CancelledError:
            if not self._executor.closed:  # the caller cancelled the job and reads no answer
                raise
            return self._failures.answer(WorkerShutdown(), log)
        except Exception as error:  # noqa: BLE001 - every job gets an answer
            return self._failures.answer(error, log)
        self._failures.reset()
        return output

    async def _run(self, job: Job, tracked: TrackedJob, log: JobLog) -> dict[str, Any]:
        request = self._request.parse(job.get("input"), self._settings.sides)
        if unknown := unknown_keys(job.get("input")):
            log.info("ignored unknown input keys: %s", ", ".join(unknown))
        storage = await self._storage_of(job)
        timings = Timings()
        with timings.measure("fetch"):
            edit = await self._prepare(request)
        tracked.set_ready()
        post = partial(self._post_progress, job)
        async with ProgressReporter(post, request.num_inference_steps) as reporter:
            image = await self._edit(edit, tracked, reporter, timings)
            with timings.measure("encode"):
                file = await asyncio.to_thread(deliver_errors(self._result_file), job, edit, image)
            with timings.measure("store"):
                link = await storage.store(file)
        cost = self._settings.pricing.cost(edit.size)
        size, file_format = edit.size, request.output_format
        log.info("done: %s; %s %s, seed %d, cost %s", timings, size, file_format, edit.seed, cost)
        return {"image_url": link, "cost": cost}

    async def _storage_of(self, job: Job) -> Storage:
        config = job.get("s3Config")
        if config is None:
            return self._storage
        settings = self._settings
        bucket = partial(CallerBucket, seconds=settings.upload_timeout_seconds)
        return await asyncio.to_thread(deliver_errors(bucket), config, address_policy(settings))

    async def _prepare(self, request: EditRequest) -> Edit:
        areas = self._settings.areas
        source = None
        if request.image is not None:
            source = await self._fetcher.fetch(request.image, request.pixels(areas))
        source_size = Size(*source.size) if source else None
        size = request.output_size(source_size, self._settings.sides)
        generated = areas.generated(size)
        drawn = secrets.randbelow(MAX_DRAWN_SEED + 1)
        return Edit(
            request,
            reference=source and await self._fit(source, generated),
            size=size,
            generated=generated,
            seed=drawn if request.seed == -1 else request.seed,
        )

    async def _fit(self, source: Image.Image, generated: Size) -> Image.Image:
        return await asyncio.to_thread(deliver_errors(reference.fit), source, generated)

    async def _edit(
        self, edit: Edit, tracked: TrackedJob, reporter: ProgressReporter, timings: Timings
    ) -> Image.Image:
        """Edit and check on the GPU thread, in one call so that no other edit comes in between.

        Raises:
            UnsafeImage: The checker flagged the result.
        """
        loop = asyncio.get_running_loop()

        def work(stop: Stop) -> tuple[Image.Image, bool]:
            def on_step(done: int) -> None:
                stop.check()
                loop.call_soon_threadsafe(tracked.set_steps_done, done)
                loop.call_soon_threadsafe(reporter.set_steps_done, done)

            stop.check()
            loop.call_soon_threadsafe(tracked.start_edit, edit.request.num_inference_steps)
            return self._edit_and_check(edit, on_step, timings)

        image, flagged = await self._executor.run(work)
        tracked.end_edit()
        if flagged:
            raise UnsafeImage
        return image

    def _edit_and_check(
        self, edit: Edit, on_step: Callable[[int], None], timings: Timings
    ) -> tuple[Image.Image, bool]:
        with timings.measure("edit"):
            image = self._editor.edit(edit, on_step)
        with timings.measure("safety"):
            flagged = edit.request.enable_safety_checker and self._checker.flags(
                image, edit.request.safety_tolerance
            )
        return image, flagged

    def _result_file(self, job: Job, edit: Edit, image: Image.Image) -> ResultFile:
        request = edit.request
        provenance = Provenance(
            software=f"kontext {__version__}",
            task=request.task,
            model=self._editor.model,
            revision=self._editor.revision,
            mode=self._editor.mode,
            seed=edit.seed,
            steps=request.num_inference_steps,
            guidance=request.guidance,
            size=str(edit.size),
            generated=str(edit.generated),
        )
        return ResultFile(
            job_id=str(job["id"]),
            extension=request.output_format.extension,
            content=encode(image, request.output_format, provenance, request.output_quality),
            content_type=request.output_format.content_type,
            metadata=provenance.fields(),
        )
