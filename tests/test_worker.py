"""One job from `input` to answer, with real requests, fetcher, encoder and executor."""

import asyncio
import base64
import concurrent.futures
import io
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from kontext.address_policy import address_policy
from kontext.contract.size import Size
from kontext.errors import INTERNAL, GpuFault, MemoryNotFreed, OutOfMemory, StorageError
from kontext.images.fetch import ImageFetcher
from kontext.inference.edit import Edit, Editor
from kontext.inference.executor import GpuExecutor
from kontext.jobs.progress import Progress
from kontext.settings import Settings
from kontext.storage.result_file import ResultFile
from kontext.worker import Job, Worker


class PaintingEditor:
    """Returns a plain image of the requested size, and keeps the edits."""

    model, revision, mode = "fake", "0", "exact"

    def __init__(self) -> None:
        self.edits: list[Edit] = []

    def edit(self, edit: Edit, on_step: Callable[[int], None]) -> Image.Image:
        self.edits.append(edit)
        for step in range(edit.request.num_inference_steps):
            on_step(step + 1)
        return Image.new("RGB", (edit.size.width, edit.size.height), "navy")


class FailingEditor(PaintingEditor):
    """Raises the given error, if any."""

    def __init__(self, error: BaseException | None) -> None:
        super().__init__()
        self.error = error

    def edit(self, edit: Edit, on_step: Callable[[int], None]) -> Image.Image:
        if self.error:
            raise self.error
        return super().edit(edit, on_step)


class FixedChecker:
    """A checker that always gives the same answer."""

    def __init__(self, flagged: bool = False) -> None:
        self.flagged = flagged
        self.tolerances: list[int] = []

    def flags(self, _image: Image.Image, tolerance: int) -> bool:
        self.tolerances.append(tolerance)
        return self.flagged


class MemoryStorage(list[ResultFile]):
    """Storage in memory."""

    async def store(self, file: ResultFile) -> str:
        self.append(file)
        return f"https://bucket.example/{file.name}"


class Updates(list[Progress]):
    """Keeps the posted progress."""

    async def __call__(self, _job: Job, progress: Progress) -> None:
        self.append(progress)


class Bench:
    """A worker and its collaborators."""

    def __init__(
        self, editor: Editor | None = None, flagged: bool = False, **settings: Any
    ) -> None:
        self.editor = editor or PaintingEditor()
        self.storage = MemoryStorage()
        self.updates = Updates()
        chosen = Settings.load(**settings)
        fetcher, self.checker = ImageFetcher(address_policy(chosen)), FixedChecker(flagged)
        self.worker = Worker(
            chosen, fetcher, self.editor, self.checker, self.storage, self.updates, GpuExecutor()
        )

    async def run(self, **fields: Any) -> dict[str, Any]:
        """Run a small job; `fields` replace those of its `input`."""
        defaults = {"prompt": "a cloud", "image": data_url(), "size": "256*256"}
        return await self.worker.run({"id": "job-1", "input": {**defaults, **fields}})


def data_url(size: tuple[int, int] = (64, 48)) -> str:
    """Return a small image as Runpod's AI SDK sends files."""
    buffer = io.BytesIO()
    Image.new("RGB", size, "olive").save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


DOCUMENTED = {
    "prompt": "Exact same bluebird, same angle and posture, now perched on a cloud in outer space",
    "negative_prompt": "",
    "seed": -1,
    "num_inference_steps": 28,
    "guidance": 2,
    "size": "1024*1024",
    "output_format": "png",
    "enable_safety_checker": True,
}
"""What the vendor's cURL, Python and JavaScript examples send, except the image's URL."""

AI_SDK = [
    DOCUMENTED | {"size": "1328*1328"},
    DOCUMENTED | {"size": "1472*1140"},
    DOCUMENTED | {"size": "1140*1472", "maxPollAttempts": 60, "pollIntervalMillis": 5000},
    {"prompt": "p", "negative_prompt": "", "size": "1328*1328", "seed": -1,
     "enable_safety_checker": True},
]  # fmt: skip
"""What `@runpod/ai-sdk-provider` 1.4.0 sends for its aspect ratios, with its own options."""


@pytest.mark.parametrize("sent", [DOCUMENTED, *AI_SDK], ids=lambda sent: sent["size"])
async def test_documented_requests_get_the_documented_output(sent: dict[str, Any]) -> None:
    """Only `image_url` and `cost`, for the requested pixels."""
    bench = Bench()
    output = await bench.run(**sent)

    width, height = map(int, sent["size"].split("*"))
    assert output == {
        "image_url": "https://bucket.example/job-1",
        "cost": round(width * height / 1e6 * 0.03, 6),
    }
    assert Image.open(io.BytesIO(bench.storage[0].content)).size == (width, height)


async def test_the_documents_own_example() -> None:
    """1024*1024 costs what the document's example shows; a flat price is a setting."""
    assert (await Bench().run(**DOCUMENTED))["cost"] == 0.031457
    assert (await Bench(usd_per_image=0.025).run(**DOCUMENTED))["cost"] == 0.025


async def test_match_input_delivers_the_aspect_of_the_image() -> None:
    """The extension takes the aspect of the input at about one megapixel."""
    bench = Bench()
    await bench.run(size="match_input", image=data_url((640, 360)))

    assert Image.open(io.BytesIO(bench.storage[0].content)).size == (1360, 768)


@pytest.mark.parametrize(
    ("asked", "generated", "megapixels"),
    [
        pytest.param("256*256", Size(510, 510), 0.065536, id="smaller"),
        pytest.param("1024*576", Size(1024, 576), 0.589824, id="within"),
        pytest.param("2368*2368", Size(1449, 1449), 5.607424, id="larger"),
    ],
)
async def test_a_size_is_generated_within_the_areas_and_paid_for_as_delivered(
    asked: str, generated: Size, megapixels: float
) -> None:
    """Edit and reference have the generated size; the file's provenance names both sizes."""
    editor = PaintingEditor()
    bench = Bench(editor)
    output = await bench.run(size=asked, image=data_url((generated.width, generated.height)))
    metadata = bench.storage[0].metadata

    assert str(editor.edits[0].size) == asked
    assert editor.edits[0].generated == generated
    fitted = editor.edits[0].reference
    assert fitted is not None
    assert Size(*fitted.size) == generated.grid
    assert output["cost"] == round(megapixels * 0.03, 6)
    assert (metadata["size"], metadata["generated"]) == (asked, str(generated))


async def test_the_areas_can_be_switched_off() -> None:
    """With both set to 0 every size is generated as it is."""
    editor = PaintingEditor()
    off = Bench(editor, min_generation_megapixels=0, max_generation_megapixels=0)
    for asked in ("256*256", "2368*2368"):
        await off.run(size=asked)

    assert [edit.generated for edit in editor.edits] == [Size(256, 256), Size(2368, 2368)]


async def test_the_file_says_what_it_is() -> None:
    """Type and extension fit the format, the provenance is there, and the prompt is not."""
    bench = Bench()
    await bench.run(output_format="jpeg", seed=42, prompt="a very secret prompt")
    file = bench.storage[0]

    assert (file.extension, file.content_type) == ("jpg", "image/jpeg")
    assert Image.open(io.BytesIO(file.content)).format == "JPEG"
    assert file.object_metadata["seed"] == "42"
    assert file.object_metadata["job-id"] == "job-1"
    assert b"secret" not in file.content
    assert "secret" not in str(file.object_metadata)


async def test_extensions_take_effect() -> None:
    """The file has the format, quality and aspect ratio that were asked for; so has the price."""
    bench = Bench()
    wide = {"size": None, "aspect_ratio": "21:9", "output_format": "webp", "seed": 1}
    fine = await bench.run(**wide, output_quality=100)
    await bench.run(**wide, output_quality=1)
    first, second = bench.storage

    assert fine["cost"] == round(1568 * 672 / 1e6 * 0.03, 6)
    assert (first.extension, first.content_type) == ("webp", "image/webp")
    assert Image.open(io.BytesIO(first.content)).format == "WEBP"
    assert Image.open(io.BytesIO(first.content)).size == (1568, 672)
    assert first.content != second.content


async def test_a_deployer_can_cap_the_safety_tolerance() -> None:
    """The checker gets what was asked for; more than the deployer allows is refused."""
    bench = Bench(max_safety_tolerance=2)
    accepted = await bench.run(safety_tolerance=0)
    refused = await bench.run(safety_tolerance=3)

    assert accepted.keys() == {"image_url", "cost"}
    assert bench.checker.tolerances == [0]
    assert refused == {"error": "safety_tolerance must be between 0 and 2, got 3"}


async def test_generating_fetches_nothing() -> None:
    """The editor gets no reference, and the file says that it was generated."""
    editor = PaintingEditor()
    bench = Bench(editor)
    output = await bench.run(task="generate", image=None, aspect_ratio="1:1", size=None)

    assert editor.edits[0].reference is None
    assert bench.storage[0].metadata["task"] == "generate"
    assert output["cost"] == 0.031457


async def test_a_deployer_can_allow_more_steps_and_guidance() -> None:
    """The worker obeys the wider ranges, and no others."""
    bench = Bench(max_steps=100, max_guidance=24)
    accepted = await bench.run(num_inference_steps=100, guidance=24)
    refused = await bench.run(num_inference_steps=101)

    assert accepted.keys() == {"image_url", "cost"}
    assert refused == {"error": "num_inference_steps must be between 1 and 100, got 101"}


async def test_a_drawn_seed_is_stored_and_differs() -> None:
    """-1 draws a seed for each job; it is used and stored with the image."""
    editor = PaintingEditor()
    bench = Bench(editor)
    await bench.run()
    await bench.run()
    used = [str(edit.seed) for edit in editor.edits]

    assert used == [file.metadata["seed"] for file in bench.storage]
    assert len(set(used)) == 2
    assert all(0 <= edit.seed < 2**32 for edit in editor.edits)


async def test_an_unsafe_image_is_neither_stored_nor_charged() -> None:
    """A flagged image fails the job with its own sentence."""
    bench = Bench(flagged=True)

    assert await bench.run() == {
        "error": "The safety checker refused the edited image; it was not stored and costs nothing"
    }
    assert bench.storage == []


async def test_the_checker_can_be_switched_off() -> None:
    """`enable_safety_checker: false` is documented."""
    assert "image_url" in await Bench(flagged=True).run(enable_safety_checker=False)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"num_inference_steps": 80}, "num_inference_steps must be between 1 and 50, got 80"),
        ({"image": "data:text/plain,hello"}, "Invalid image: not a JPEG, PNG, WebP, AVIF or GIF"),
        ({"image": "http://127.0.0.1/x"}, "Invalid image URL: 127.0.0.1 is "),
    ],
)
async def test_a_bad_job_costs_no_gpu(fields: dict[str, Any], sentence: str) -> None:
    """A wrong input is found before the edit; the answer is one sentence."""
    editor = PaintingEditor()
    output = await Bench(editor).run(**fields)

    assert output.keys() == {"error"}
    assert output["error"].startswith(sentence)
    assert editor.edits == []


async def test_an_unexpected_error_is_answered_without_its_cause(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The caller gets one fixed sentence; the log has the whole cause with the job's id."""
    bench = Bench(FailingEditor(RuntimeError("/etc/secret is not readable")))
    output = await bench.run()

    assert output == {"error": INTERNAL}
    record = caplog.records[-1]
    assert record.__dict__["job_id"] == "job-1"
    assert "/etc/secret" in (caplog.handler.format(record))


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (OutOfMemory("too large"), {"error": "too large"}),
        (MemoryNotFreed("too large"), {"error": "too large", "refresh_worker": True}),
        (GpuFault("it is lost"), {"error": "it is lost", "refresh_worker": True}),
        (StopIteration(), {"error": INTERNAL}),
        (asyncio.CancelledError(), {"error": INTERNAL}),
        (concurrent.futures.CancelledError(), {"error": INTERNAL}),
        (GeneratorExit(), {"error": INTERNAL}),
        (SystemExit(3), {"error": INTERNAL, "refresh_worker": True}),
        (KeyboardInterrupt(), {"error": INTERNAL, "refresh_worker": True}),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_every_exception_of_an_edit_is_answered(
    error: BaseException, answer: dict[str, Any]
) -> None:
    """Runpod is asked for another worker where this one cannot continue."""
    async with asyncio.timeout(10):
        assert await Bench(FailingEditor(error)).run() == answer


async def test_internal_errors_in_a_row_ask_for_another_worker() -> None:
    """A broken worker must not fail every job in the queue; a caller's mistake does not count."""
    bench = Bench(editor := FailingEditor(RuntimeError("broken")), max_internal_errors=2)

    assert await bench.run() == {"error": INTERNAL}
    assert "refresh_worker" not in await bench.run(seed="x")
    assert await bench.run() == {"error": INTERNAL, "refresh_worker": True}

    bench = Bench(editor, max_internal_errors=2)
    await bench.run()
    editor.error = None
    assert "image_url" in await bench.run()
    editor.error = RuntimeError("broken again")
    assert await bench.run() == {"error": INTERNAL}


async def test_internal_errors_need_not_ask_for_another_worker() -> None:
    """0 switches it off."""
    bench = Bench(FailingEditor(RuntimeError("broken")), max_internal_errors=0)

    assert [await bench.run() for _ in range(4)] == [{"error": INTERNAL}] * 4


async def test_the_worker_continues_after_a_failed_job() -> None:
    """After each kind of failure the next job succeeds."""
    bench = Bench()
    for fields in ({"seed": "x"}, {"image": "data:,"}, {"size": None, "image": "http://[::1]/"}):
        assert "error" in await bench.run(**fields)
        assert "image_url" in await bench.run()


@pytest.mark.parametrize("job", [{}, {"input": None}, {"input": [1]}, {"id": None, "input": "x"}])
async def test_any_job_gets_an_answer(job: Job) -> None:
    """A job of any shape fails with a sentence."""
    assert "input must be an object" in (await Bench().worker.run(job))["error"]


async def test_the_caller_reads_the_sentence_of_a_storage_error() -> None:
    """A result that cannot be stored fails its job."""
    bench = Bench()

    class Full:
        async def store(self, file: ResultFile) -> str:
            raise StorageError("The edited image could not be stored: it is full")

    bench.worker._storage = Full()
    assert await bench.run() == {"error": "The edited image could not be stored: it is full"}


async def test_a_wrong_s3_config_costs_no_gpu() -> None:
    """A job's `s3Config` is validated before the edit, and its secret is not repeated."""
    editor = PaintingEditor()
    job = {
        "id": "1",
        "input": {"prompt": "p", "image": data_url()},
        "s3Config": {"accessId": "a", "accessSecret": "hidden", "bucketName": 5},
    }
    output = await Bench(editor).worker.run(job)

    assert "bucketName, endpointUrl" in output["error"]
    assert "hidden" not in output["error"]
    assert editor.edits == []


async def test_progress_ends_before_the_result() -> None:
    """Updates count the steps, and none comes after `run` has returned."""
    bench = Bench()
    await bench.run(num_inference_steps=4)
    posted = list(bench.updates)
    await asyncio.sleep(0.05)

    assert posted == bench.updates
    assert posted[-1] == {"step": 4, "steps": 4, "percent": 100}
    assert [update["step"] for update in posted] == sorted({update["step"] for update in posted})


async def test_a_cancelled_job_stores_nothing() -> None:
    """The cancellation is raised, stops the edit at its next step, and leaves no file."""
    started = asyncio.Event()
    loop = asyncio.get_running_loop()
    steps: list[int] = []

    class Slow(PaintingEditor):
        def edit(self, edit: Edit, on_step: Callable[[int], None]) -> Image.Image:
            for step in range(edit.request.num_inference_steps):
                loop.call_soon_threadsafe(started.set)
                asyncio.run(asyncio.sleep(0.02))
                steps.append(step)
                on_step(step + 1)
            return super().edit(edit, on_step)

    bench = Bench(Slow())
    job = asyncio.create_task(bench.run(num_inference_steps=50))
    await started.wait()
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job
    assert "image_url" in await bench.run(num_inference_steps=1)

    assert len(steps) < 10
    assert len(bench.storage) == 1
