"""The story of one job: `input` in, `{"image_url", "cost"}` or `{"error"}` out.

Knows the order of things and what a caller may learn; the doing is its collaborators'.
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
from kontext.errors import UnsafeImage, WorkerEnding
from kontext.images import reference
from kontext.images.encode import encode
from kontext.images.fetch import ImageFetcher
from kontext.images.provenance import Provenance
from kontext.inference.edit import Checker, Edit, Editor
from kontext.inference.executor import GpuExecutor, Stop
from kontext.jobs.failures import Failures
from kontext.jobs.prefetch import Prefetch, Turn
from kontext.jobs.progress import Progress, ProgressReporter
from kontext.jobs.timings import Timings
from kontext.logs import JobLog
from kontext.settings import Settings
from kontext.storage.caller_bucket import CallerBucket
from kontext.storage.result_file import ResultFile, Storage
from kontext.threads import deliver_errors

Job = Mapping[str, Any]
PostProgress = Callable[[Job, Progress], Awaitable[None]]

LARGEST_DRAWN_SEED = 2**32 - 1
"""Seeds drawn for a job stay exact in every client's numbers (JavaScript's end at 2^53)."""


class Worker:
    """Runs jobs; one for the life of the process.

    Args:
        settings: Limits and prices.
        source: Fetches input images.
        editor: Edits them, on the GPU executor.
        checker: Judges results, on the GPU executor.
        storage: Keeps them; a job's `s3Config` replaces it for that job.
        post_progress: Tells Runpod how far a job is.
        executor: The thread of everything that touches the GPU.
        prefetch: Told when the executor will be free, for whoever takes the jobs.
    """

    def __init__(
        self,
        settings: Settings,
        source: ImageFetcher,
        editor: Editor,
        checker: Checker,
        storage: Storage,
        post_progress: PostProgress,
        executor: GpuExecutor,
        prefetch: Prefetch | None = None,
    ) -> None:
        self._settings = settings
        self._fetcher = source
        self._editor = editor
        self._checker = checker
        self._storage = storage
        self._post_progress = post_progress
        self._prefetch = prefetch or Prefetch(settings.prefetch_seconds)
        self._executor = executor
        self._failures = Failures(settings.max_internal_errors)

    async def run(self, job: Job) -> dict[str, Any]:
        """Run one job as Runpod hands it over.

        Returns:
            `{"image_url", "cost"}`, or `{"error"}` with one public sentence. Never raises but
            for cancellation: the SDK would hand a traceback to the caller.
        """
        log = JobLog(str(job.get("id")))
        try:
            with self._prefetch.turn() as turn:
                output = await self._run(job, turn, log)
        except asyncio.CancelledError:
            if not self._executor.closed:  # then the caller stopped the job, and reads no answer
                raise
            return self._failures.answer(WorkerEnding(WorkerEnding.example), log)
        except Exception as error:  # noqa: BLE001 - whatever it is, the job is answered
            return self._failures.answer(error, log)
        self._failures.succeeded()
        return output

    async def _run(self, job: Job, turn: Turn, log: JobLog) -> dict[str, Any]:
        request = EditRequest.parse(job.get("input"), self._settings.sides)
        if unknown := unknown_keys(job.get("input")):
            log.info("ignored unknown input keys: %s", ", ".join(unknown))
        storage = await self._storage_of(job)
        timings = Timings()
        with timings("fetch"):
            edit = await self._prepare(request)
        turn.ready()
        async with self._reporter(job, edit) as reporter:
            image = await self._edit(edit, turn, reporter, timings)
            with timings("encode"):
                file = await asyncio.to_thread(deliver_errors(self._file), job, edit, image)
            with timings("store"):
                link = await storage.store(file)
        cost = self._settings.pricing.cost(edit.size)
        log.info(
            "done: %s; %s %s, seed %d, cost %s",
            timings,
            edit.size,
            request.output_format,
            edit.seed,
            cost,
        )
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
        source = await self._fetcher.fetch(request.image, request.pixels(areas))
        size = request.output_size(Size(*source.size), self._settings.sides)
        generated = areas.generated(size)
        drawn = secrets.randbelow(LARGEST_DRAWN_SEED + 1)
        return Edit(
            request,
            reference=await asyncio.to_thread(deliver_errors(reference.fit), source, generated),
            size=size,
            generated=generated,
            seed=drawn if request.seed == -1 else request.seed,
        )

    def _reporter(self, job: Job, edit: Edit) -> ProgressReporter:
        post = partial(self._post_progress, job)
        return ProgressReporter(post, edit.request.num_inference_steps)

    async def _edit(
        self,
        edit: Edit,
        turn: Turn,
        reporter: ProgressReporter,
        timings: Timings,
    ) -> Image.Image:
        """Edit and judge in one go on the executor: between the two the next edit would slip in."""
        loop = asyncio.get_running_loop()

        def work(stop: Stop) -> tuple[Image.Image, bool]:
            def on_step(done: int) -> None:
                stop.check()
                loop.call_soon_threadsafe(turn.step, done)
                loop.call_soon_threadsafe(reporter.step, done)

            stop.check()
            loop.call_soon_threadsafe(turn.enter, edit.request.num_inference_steps)
            with timings("edit"):
                image = self._editor.edit(edit, on_step)
            with timings("safety"):
                flagged = edit.request.enable_safety_checker and self._checker.flags(image)
            return image, flagged

        image, flagged = await self._executor.run(work)
        turn.leave()
        if flagged:
            raise UnsafeImage(UnsafeImage.example)
        return image

    def _file(self, job: Job, edit: Edit, image: Image.Image) -> ResultFile:
        request = edit.request
        provenance = Provenance(
            software=f"kontext {__version__}",
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
            content=encode(image, request.output_format, provenance),
            content_type=request.output_format.content_type,
            metadata=provenance.fields(),
        )
