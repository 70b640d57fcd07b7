"""The story of one job: `input` in, `{"image_url", "cost"}` or `{"error"}` out.

Knows the order of things and what a caller may learn; the doing is its collaborators'.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from PIL import Image

from kontext import __version__, reference
from kontext.address_policy import address_policy
from kontext.caller_bucket import CallerBucket
from kontext.edit import Checker, Edit, Editor
from kontext.errors import UnsafePicture, WorkerEnding
from kontext.failures import Failures
from kontext.lane import Lane, Stop, carrying
from kontext.logs import JobLog
from kontext.output import CONTENT_TYPES, EXTENSIONS, Provenance, encode
from kontext.pace import Pace, Turn
from kontext.progress import Progress, ProgressReporter
from kontext.request import EditRequest, unknown_keys
from kontext.settings import Settings
from kontext.size import Size, price
from kontext.source import Source
from kontext.stored_file import Storage, StoredFile
from kontext.timings import Timings

Job = Mapping[str, Any]
PostProgress = Callable[[Job, Progress], Awaitable[None]]

LARGEST_DRAWN_SEED = 2**32 - 1
"""Seeds drawn for a job stay exact in every client's numbers (JavaScript's end at 2^53)."""


class Worker:
    """Runs jobs; one for the life of the process.

    Args:
        settings: Limits and prices.
        source: Fetches input pictures.
        editor: Edits them, on the GPU lane.
        checker: Judges results, on the GPU lane.
        storage: Keeps them; a job's `s3Config` replaces it for that job.
        post_progress: Tells Runpod how far a job is.
        lane: The thread of everything that touches the GPU.
        pace: Told when the lane will be free, for whoever takes the jobs.
    """

    def __init__(
        self,
        settings: Settings,
        source: Source,
        editor: Editor,
        checker: Checker,
        storage: Storage,
        post_progress: PostProgress,
        lane: Lane,
        pace: Pace | None = None,
    ) -> None:
        self._settings = settings
        self._source = source
        self._editor = editor
        self._checker = checker
        self._storage = storage
        self._post_progress = post_progress
        self._pace = pace or Pace(settings.take_ahead_seconds)
        self._lane = lane
        self._failures = Failures(settings.most_internal_errors)

    async def run(self, job: Job) -> dict[str, Any]:
        """Run one job as Runpod hands it over.

        Returns:
            `{"image_url", "cost"}`, or `{"error"}` with one public sentence. Never raises but
            for cancellation: the SDK would hand a traceback to the caller.
        """
        log = JobLog(str(job.get("id")))
        try:
            with self._pace.turn() as turn:
                output = await self._run(job, turn, log)
        except asyncio.CancelledError:
            if not self._lane.closed:  # then the caller stopped the job, and reads no answer
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
            picture = await self._edit(request, edit, turn, reporter, timings)
            with timings("encode"):
                file = await asyncio.to_thread(carrying(self._file), job, request, edit, picture)
            with timings("store"):
                link = await storage.store(file)
        cost = self._price(edit.size)
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
        bucket = partial(CallerBucket, seconds=settings.upload_seconds)
        return await asyncio.to_thread(carrying(bucket), config, address_policy(settings))

    async def _prepare(self, request: EditRequest) -> Edit:
        areas = self._settings.areas
        source = await self._source.picture(request.image, request.pixels(areas))
        size = request.output_size(Size(*source.size), self._settings.sides)
        generated = areas.generated(size)
        drawn = secrets.randbelow(LARGEST_DRAWN_SEED + 1)
        return Edit(
            prompt=request.prompt,
            negative_prompt=request.negative_prompt,
            reference=await asyncio.to_thread(carrying(reference.fit), source, generated),
            size=size,
            generated=generated,
            steps=request.num_inference_steps,
            guidance=request.guidance,
            seed=drawn if request.seed == -1 else request.seed,
        )

    def _reporter(self, job: Job, edit: Edit) -> ProgressReporter:
        return ProgressReporter(lambda progress: self._post_progress(job, progress), edit.steps)

    async def _edit(
        self,
        request: EditRequest,
        edit: Edit,
        turn: Turn,
        reporter: ProgressReporter,
        timings: Timings,
    ) -> Image.Image:
        """Edit and judge in one go on the lane: between the two the next edit would slip in."""
        loop = asyncio.get_running_loop()

        def work(stop: Stop) -> tuple[Image.Image, bool]:
            def on_step(done: int) -> None:
                stop.check()
                loop.call_soon_threadsafe(turn.step, done)
                loop.call_soon_threadsafe(reporter.step, done)

            stop.check()
            loop.call_soon_threadsafe(turn.enter, edit.steps)
            with timings("edit"):
                picture = self._editor.edit(edit, on_step)
            with timings("safety"):
                flagged = request.enable_safety_checker and self._checker.flags(picture)
            return picture, flagged

        picture, flagged = await self._lane.run(work)
        turn.leave()
        if flagged:
            raise UnsafePicture(UnsafePicture.example)
        return picture

    def _file(self, job: Job, request: EditRequest, edit: Edit, picture: Image.Image) -> StoredFile:
        provenance = Provenance(
            software=f"kontext {__version__}",
            model=self._editor.model,
            revision=self._editor.revision,
            mode=self._editor.mode,
            seed=edit.seed,
            steps=edit.steps,
            guidance=edit.guidance,
            size=str(edit.size),
            generated=str(edit.generated_size),
        )
        return StoredFile(
            job_id=str(job["id"]),
            extension=EXTENSIONS[request.output_format],
            content=encode(picture, request.output_format, provenance),
            content_type=CONTENT_TYPES[request.output_format],
            metadata=provenance.fields(),
        )

    def _price(self, size: Size) -> float:
        settings = self._settings
        return price(size, settings.usd_per_megapixel, settings.usd_per_image)
