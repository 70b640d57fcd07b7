"""The worker in production mode: the real handler, the real SDK loop, the local server over HTTP.

One worker process serves most tests, one job after another, as on Runpod; so each test also proves
that the test before did not harm the worker.
"""

import asyncio
import io
import re
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import pytest_asyncio
from PIL import Image

from kontext.errors import INTERNAL, GpuFault, OutOfMemory, WorkerShutdown
from kontext.local.jobs import Status
from kontext.local.worker_api import POLL_TIMEOUT_SECONDS
from kontext.storage import embedded_bucket
from tests.local.served import group, until
from tests.support.endpoint import WORKER, Endpoint, WorkerProcess, serve_endpoint, start_worker
from tests.support.obedient import EDIT, Obedient, start_obedient

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROOT = Path(__file__).parent.parent
LONG_EDIT = {**EDIT, "size": "1024*1024", "num_inference_steps": 50}
PHASES = ["fetch", "edit", "safety", "encode", "store"]

# Python 3.14 starts processes this way, and imports the main module again in each.
FORKSERVER = "import multiprocessing; multiprocessing.set_start_method('forkserver')"


@dataclass(frozen=True)
class Store:
    """A bucket on disk, and the environment that points a worker at it."""

    root: Path
    environment: dict[str, str]

    @property
    def port(self) -> int:
        """The port of its links."""
        return urlsplit(self.environment["BUCKET_ENDPOINT_URL"]).port or 0

    def config(self, **changes: str) -> dict[str, str]:
        """Return a job's `s3Config` for this bucket, with some values changed."""
        return {
            "accessId": self.environment["BUCKET_ACCESS_KEY_ID"],
            "accessSecret": self.environment["BUCKET_SECRET_ACCESS_KEY"],
            "bucketName": self.environment["BUCKET_NAME"],
            "endpointUrl": self.environment["BUCKET_ENDPOINT_URL"],
        } | changes


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A bucket."""
    root = tmp_path_factory.mktemp("bucket")
    with embedded_bucket.serve(root) as environment:
        yield Store(root / environment["BUCKET_NAME"], environment)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def endpoint(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Endpoint]:
    """The endpoint of the worker that most tests share."""
    async with serve_endpoint(tmp_path_factory.mktemp("endpoint")) as endpoint:
        yield endpoint


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def worker(
    endpoint: Endpoint, store: Store, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[WorkerProcess]:
    """The worker that most tests share, with the tiny model and a real bucket."""
    directory = tmp_path_factory.mktemp("worker")
    (directory / "sitecustomize.py").write_text(FORKSERVER)
    environment = {
        **endpoint.environment,
        **store.environment,
        "PYTHONPATH": str(directory),
        "STAND_IN": "model,safety",
        "FETCH_ALLOWED_NETWORKS": "127.0.0.0/8",
        "FETCH_ALLOWED_PORTS": f"80,443,{store.port}",
    }
    async with start_worker(ROOT / "handler.py", environment, directory / "log") as worker:
        yield worker


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def obedient(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Obedient]:
    """The obedient worker that several tests share."""
    async with start_obedient(tmp_path_factory.mktemp("obedient")) as obedient:
        yield obedient


async def opened(link: str) -> httpx.Response:
    """Open a link as anyone can."""
    return await asyncio.to_thread(httpx.get, link)


async def test_a_job_ends_with_a_link_to_its_image_and_its_cost(
    endpoint: Endpoint, worker: WorkerProcess
) -> None:
    """The post is exactly the documented output; anyone can open the link."""
    post = await endpoint.run(EDIT)

    assert post.keys() == {"id", "output"}
    assert post["output"].keys() == {"image_url", "cost"}
    assert post["output"]["cost"] == round(256 * 256 / 1e6 * 0.03, 6)
    answer = await opened(post["output"]["image_url"])
    assert answer.headers["Content-Type"] == "image/png"
    with Image.open(io.BytesIO(answer.content)) as image:
        assert (image.format, image.size) == ("PNG", (256, 256))


@pytest.mark.hostile("API abuses")
@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        pytest.param(
            {**EDIT, "num_inference_steps": 80},
            "num_inference_steps must be between 1 and 50, got 80",
            id="out-of-range",
        ),
        pytest.param(
            {**EDIT, "guidance": float("nan")},
            "guidance must be a finite number, got NaN",
            id="not-a-number",
        ),
        pytest.param(
            {**EDIT, "output_format": "\ud800"},
            'output_format must be a string, got "\\ud800"',
            id="no-character",
        ),
        pytest.param("edit it", 'input must be an object, got "edit it"', id="input-a-string"),
        pytest.param(None, "input must be an object, got null", id="input-null"),
    ],
)
async def test_a_wrong_input_fails_with_one_sentence_and_nothing_else(
    endpoint: Endpoint,
    worker: WorkerProcess,
    data: object,
    sentence: str,
) -> None:
    """The answer is valid JSON, whatever JSON the `input` is."""
    job_id = endpoint.send(data)

    assert await endpoint.result(job_id) == {"id": job_id, "error": sentence}
    assert (await endpoint.served.client.status(job_id))["error"] == sentence


async def test_keys_that_leak_into_the_input_are_ignored_and_named_in_the_log(
    endpoint: Endpoint, worker: WorkerProcess
) -> None:
    """Runpod's AI SDK puts its polling options into `input`."""
    post = await endpoint.run({**EDIT, "maxPollAttempts": 60, "pollIntervalMillis": 5000})

    assert "output" in post
    assert 'ignored unknown input keys: "maxPollAttempts", "pollIntervalMillis"' in (
        worker.lines(post["id"])
    )


async def test_a_result_that_cannot_be_stored_fails_its_job_with_one_sentence(
    endpoint: Endpoint, worker: WorkerProcess, store: Store
) -> None:
    """A job's `s3Config` cannot name an address in the worker's own network."""
    post = await endpoint.run(EDIT, s3Config=store.config(endpointUrl="http://10.0.0.1"))

    assert post.keys() == {"id", "error"}
    assert post["error"].startswith("The edited image could not be stored: ")
    assert "10.0.0.1" not in post["error"]


async def test_a_job_delivered_twice_is_answered_twice_and_stored_once(
    endpoint: Endpoint, worker: WorkerProcess, store: Store
) -> None:
    """Runpod delivers at least once; the second result, another image, overwrites the first."""
    job_id = endpoint.send({**EDIT, "num_inference_steps": 10})
    await until(lambda: "Started." in worker.lines(job_id))
    endpoint.served.server.queue.store.release(WORKER, died=True)  # as if the worker were dead
    await until(lambda: len(endpoint.results(job_id)) == 2)

    links = [post["output"]["image_url"] for post in endpoint.results(job_id)]
    first, second = [await opened(link) for link in links]
    assert first.content == second.content
    assert len(list(store.root.rglob(f"{job_id}*"))) == 1
    assert len(set(re.findall(r"seed \d+", "".join(worker.lines(job_id))))) == 2


async def test_a_slow_progress_endpoint_gets_every_update_before_the_result(
    endpoint: Endpoint, worker: WorkerProcess
) -> None:
    """Updates are objects, in order, and none is under way when the result is sent."""
    endpoint.recorder.hold_progress = 2
    post = await endpoint.run(EDIT)
    await asyncio.sleep(endpoint.recorder.hold_progress)  # a late update would arrive meanwhile
    endpoint.recorder.hold_progress = 0

    *updates, result = endpoint.of(post["id"])
    assert "output" in result
    assert "status" not in result
    assert [update["status"] for update in updates] == ["IN_PROGRESS"] * len(updates)
    steps = [update["output"]["step"] for update in updates]
    assert steps
    assert steps == sorted(set(steps))
    assert [update["output"] for update in updates] == [
        {"step": step, "steps": 2, "percent": 50 * step} for step in steps
    ]


async def test_a_cancelled_job_stops_and_the_next_one_runs(
    endpoint: Endpoint, worker: WorkerProcess
) -> None:
    """Runpod's stop signal ends the edit between two steps; the job gets no more posts."""
    job_id = endpoint.send(LONG_EDIT)
    await endpoint.served.client.running(job_id)
    await endpoint.stop(job_id, worker)
    posted = len(endpoint.of(job_id))

    assert "output" in await endpoint.run(EDIT)
    assert not endpoint.results(job_id)
    assert len(endpoint.of(job_id)) == posted < LONG_EDIT["num_inference_steps"]
    assert await endpoint.status(job_id) == Status.CANCELLED


async def test_nothing_private_reaches_the_log(
    endpoint: Endpoint, worker: WorkerProcess, store: Store
) -> None:
    """No prompt, URL query or secret is logged, whether a job succeeds or fails.

    One prompt is longer than a tokenizer reads, because warnings would repeat that.
    """
    prompt = {**EDIT, "prompt": "XYZZY PLUGH " * 300, "negative_prompt": "XYZZY " * 300}
    link = (await endpoint.run(prompt))["output"]["image_url"]
    post = await endpoint.run({**EDIT, "image": link}, s3Config=store.config())
    assert post["output"]["image_url"].startswith(store.environment["BUCKET_ENDPOINT_URL"])
    failures: dict[str, tuple[dict[str, object], dict[str, str]]] = {
        "answered": ({"image": f"{link.partition('?')[0]}?token=XYZZY"}, {}),
        "unreachable": ({"image": "http://127.0.0.1/?token=XYZZY"}, {}),
        "no-url": ({"image": "http://127.0.0.1/\0?token=XYZZY"}, {}),
        "no-prompt": ({"prompt": ["XYZZY"]}, {}),
        "private-bucket": ({}, store.config(accessSecret="XYZZY", endpointUrl="http://10.0.0.1")),
        "no-bucket": ({}, store.config(accessSecret="XYZZY", endpointUrl="http://XYZZY:X@[")),
        "wrong-secret": ({}, store.config(accessSecret="XYZZY")),
    }
    job_ids = {}
    for name, (changes, config) in failures.items():
        post = await endpoint.run(EDIT | changes, s3Config=config or None)
        assert "error" in post, name
        job_ids[name] = post["id"]

    secret = store.environment["BUCKET_SECRET_ACCESS_KEY"]
    for private in ("xyzzy", "plugh", "bluebird", "x-amz", "base64", secret):
        assert private not in worker.log.lower()
    assert any("cause: ConnectError" in line for line in worker.lines(job_ids["unreachable"]))
    assert any("cause: Blocked" in line for line in worker.lines(job_ids["private-bucket"]))


async def test_a_completed_job_logs_one_line_with_its_timings_size_seed_and_cost(
    endpoint: Endpoint, worker: WorkerProcess
) -> None:
    """It is our only line about the job, in the JSON that Runpod's console reads."""
    job_id = (await endpoint.run({**EDIT, "seed": 7}))["id"]
    await until(lambda: "Finished." in worker.lines(job_id))

    started, done, finished = worker.lines(job_id)
    assert (started, finished) == ("Started.", "Finished.")
    seconds = r"\d+\.\d{3} s"
    phases = ", ".join(f"{phase} {seconds}" for phase in PHASES)
    assert re.fullmatch(rf"done: {phases}; 256\*256 png, seed 7, cost 0\.001966", done)
    assert "it/s" not in worker.log  # the unit of a progress bar


async def test_the_model_is_loaded_once_though_the_main_module_is_imported_twice(
    endpoint: Endpoint, worker: WorkerProcess
) -> None:
    """The heartbeat's process imports the handler again, but only pings with the job's id."""
    job_id = endpoint.send(LONG_EDIT)
    await until(lambda: any(ping.get("job_id") == job_id for ping in endpoint.recorder.pings))
    await endpoint.stop(job_id, worker)

    assert worker.log.count("STAND-IN model") == 1
    assert worker.log.count("Starting Serverless Worker") == 1


async def test_a_worker_that_gets_sigterm_posts_its_result_first(
    tmp_path: Path,
) -> None:
    """After a SIGTERM during a job its result is posted, and then every process ends.

    All stand-ins are set by name, and so is the log level that would crash the SDK.
    """
    async with serve_endpoint(tmp_path) as endpoint:
        environment = {
            **endpoint.environment,
            "STAND_IN": "model,safety,bucket",
            "RUNPOD_LOG_LEVEL": "WARNING",
        }
        async with start_worker(ROOT / "handler.py", environment, tmp_path / "log") as worker:
            job_id = endpoint.send({**EDIT, "size": "512*512", "num_inference_steps": 20})
            await endpoint.served.client.running(job_id)
            worker.process.send_signal(signal.SIGTERM)
            assert not endpoint.results(job_id)
            code = await worker.exit_code(30)

        assert code == 0
        assert endpoint.of(job_id)[-1]["output"].keys() == {"image_url", "cost"}
        assert await endpoint.status(job_id) == Status.COMPLETED
        assert len(re.findall("STAND-IN (bucket|model|safety checker)", worker.log)) == 3


async def test_a_worker_that_gets_sigterm_finishes_its_prefetched_job(
    tmp_path: Path,
) -> None:
    """It answers every job that it fetched; waiting jobs are left to other workers."""
    async with start_obedient(tmp_path) as obedient:
        job_ids = [obedient.send(1, "wait"), obedient.send(2), obedient.send(3)]
        await obedient.started(job_ids[1])
        obedient.worker.process.send_signal(signal.SIGTERM)
        obedient.release(1)
        code = await obedient.worker.exit_code()

        assert code == 0
        statuses = [await obedient.endpoint.status(job_id) for job_id in job_ids]
        assert statuses == [Status.COMPLETED, Status.COMPLETED, Status.IN_QUEUE]


async def test_an_idle_worker_that_gets_sigterm_does_not_wait_for_its_poll(tmp_path: Path) -> None:
    """The SDK's own loop would wait for the end of the long poll, up to 90 seconds."""
    async with start_obedient(tmp_path) as obedient:
        await obedient.endpoint.result(obedient.send(1))
        await until(lambda: obedient.endpoint.recorder.polls > 1)  # without a job it is held
        obedient.worker.process.send_signal(signal.SIGTERM)

        assert await obedient.worker.exit_code(POLL_TIMEOUT_SECONDS / 2) == 0


async def test_an_unexpected_exception_is_one_fixed_sentence_and_a_whole_cause_in_the_log(
    obedient: Obedient,
) -> None:
    """The caller reads no cause, path or host; the log has the traceback with the job's id."""
    job_id = obedient.send(1, "fail")

    assert await obedient.endpoint.result(job_id) == {"id": job_id, "error": INTERNAL}
    cause = next(line for line in obedient.worker.lines(job_id) if "internal error" in line)
    assert "Traceback" in cause
    assert "RuntimeError: the private cause, in /opt/private on host-of-the-worker" in cause


async def test_out_of_memory_fails_its_job_and_the_worker_goes_on(obedient: Obedient) -> None:
    """Otherwise a caller who asks for the largest size would replace one worker after another."""
    job_id = obedient.send(2, "out of memory")
    post = await obedient.endpoint.result(job_id)

    assert post == {"id": job_id, "error": OutOfMemory.example}
    assert "output" in await obedient.endpoint.result(obedient.send(3))


async def test_a_lost_gpu_fails_its_job_and_ends_the_worker(tmp_path: Path) -> None:
    """The process cannot repair a CUDA context; waiting jobs are left to another worker."""
    async with start_obedient(tmp_path) as obedient:
        lost, waiting = obedient.send(1, "lost gpu"), obedient.send(2)
        code = await obedient.worker.exit_code()

        assert code == 1
        assert obedient.endpoint.results(lost) == [
            {"id": lost, "error": GpuFault.sentence, "stopPod": True}
        ]
        assert await obedient.endpoint.status(waiting) == Status.IN_QUEUE
        await until(lambda: not group(obedient.worker.process.pid))


async def test_a_stopped_edit_that_hangs_ends_the_worker(tmp_path: Path) -> None:
    """It never frees the GPU thread: the jobs behind it fail, and another worker starts."""
    async with start_obedient(tmp_path, STOP_TIMEOUT_SECONDS="1") as obedient:
        hanging = obedient.send(1, "hang")
        await obedient.started(hanging)
        behind = obedient.send(2)
        await until(lambda: "enter 1\n" in obedient.worker.log)
        await obedient.stop(hanging)
        code = await obedient.worker.exit_code()

        assert code == 1
        assert obedient.endpoint.results(behind) == [
            {"id": behind, "error": WorkerShutdown.sentence, "stopPod": True}
        ]
        assert not obedient.endpoint.results(hanging)
        assert "fake_handler.py" in obedient.worker.log  # where the thread hangs
        await until(lambda: not group(obedient.worker.process.pid))


async def test_a_worker_that_gets_sigterm_during_a_hanging_edit_ends_after_the_time_limit(
    tmp_path: Path,
) -> None:
    """Its job is answered, so the caller need not wait for a timeout."""
    async with start_obedient(tmp_path, SHUTDOWN_SECONDS="1") as obedient:
        hanging = obedient.send(1, "hang")
        await until(lambda: "enter 1\n" in obedient.worker.log)
        obedient.worker.process.send_signal(signal.SIGTERM)
        code = await obedient.worker.exit_code()

        assert code == 1
        assert obedient.endpoint.results(hanging) == [
            {"id": hanging, "error": WorkerShutdown.sentence, "stopPod": True}
        ]
        await until(lambda: not group(obedient.worker.process.pid))


async def test_a_worker_that_gets_sigterm_after_a_stopped_edit_that_hangs_ends_too(
    tmp_path: Path,
) -> None:
    """No answer is due, but Python's own exit would wait for the thread for ever."""
    async with start_obedient(tmp_path, STOP_TIMEOUT_SECONDS="3") as obedient:
        hanging = obedient.send(1, "hang")
        await until(lambda: "enter 1\n" in obedient.worker.log)
        await obedient.stop(hanging)
        obedient.worker.process.send_signal(signal.SIGTERM)
        code = await obedient.worker.exit_code(30)

        assert code == 1
        assert not obedient.endpoint.results(hanging)


async def test_every_exception_of_an_edit_is_answered(tmp_path: Path) -> None:
    """Also exceptions that asyncio cannot pass between threads, and an exit of the process."""
    async with start_obedient(tmp_path) as obedient:
        for prompt in ("stop iteration", "cancelled error"):
            job_id = obedient.send(1, prompt)
            assert await obedient.endpoint.result(job_id) == {"id": job_id, "error": INTERNAL}
        assert "output" in await obedient.endpoint.result(obedient.send(2))
        job_id = obedient.send(3, "system exit")
        code = await obedient.worker.exit_code()

        assert code == 1
        assert obedient.endpoint.results(job_id) == [
            {"id": job_id, "error": INTERNAL, "stopPod": True}
        ]


async def test_a_cancelled_edit_ends_at_its_next_step_and_the_next_job_waits_for_that(
    obedient: Obedient,
) -> None:
    """A thread outlives its cancelled task, and the GPU is free only when its work has ended.

    A job that is cancelled while it waits for the GPU never gets it.
    """
    held = obedient.send(4, "wait")
    await until(lambda: "step 4\n" in obedient.worker.log)
    await obedient.stop(held)
    dropped = obedient.send(5)
    await obedient.started(dropped)
    await asyncio.sleep(0.5)  # it would get the GPU meanwhile
    await obedient.stop(dropped)
    following = obedient.send(6)
    await obedient.started(following)
    obedient.release(4)
    await obedient.endpoint.result(following)

    assert obedient.gpu_events_since(4) == [
        *("enter 4", "step 4", "step 4", "leave 4"),
        *("enter 6", "step 6", "step 6", "leave 6"),
    ]
    assert not obedient.endpoint.results(held)
    assert not obedient.endpoint.of(dropped)


async def test_during_an_edit_the_next_image_is_fetched_and_the_last_result_stored(
    obedient: Obedient,
) -> None:
    """The GPU does not wait for the next job's image or the last job's bucket."""
    (obedient.directory / "full").touch()
    last, present, following = obedient.send(7), obedient.send(8, "wait"), obedient.send(9)
    await obedient.started(following)
    await until(lambda: "fetched" in obedient.events_since(8))
    assert not obedient.endpoint.results(last)
    (obedient.directory / "full").unlink()
    await obedient.endpoint.result(last)
    obedient.release(8)
    for job_id in (present, following):
        await obedient.endpoint.result(job_id)

    events = obedient.events_since(8)
    assert events[: events.index("leave 8")] == [
        *("enter 8", "step 8", "fetched", "stored 7", "step 8"),
    ]


async def test_one_job_is_prefetched_and_after_its_cancel_another_one(
    obedient: Obedient,
) -> None:
    """More jobs would wait here instead of running on idle workers; fewer would idle the GPU."""
    present, ahead, waiting = obedient.send(10, "wait"), obedient.send(11), obedient.send(12)
    await obedient.started(ahead)
    await asyncio.sleep(0.5)  # the other would be fetched meanwhile
    assert await obedient.endpoint.status(waiting) == Status.IN_QUEUE
    await obedient.stop(ahead)
    await obedient.started(waiting)
    obedient.release(10)
    for job_id in (present, waiting):
        assert "output" in await obedient.endpoint.result(job_id)

    assert obedient.gpu_events_since(10) == [
        *("enter 10", "step 10", "step 10", "leave 10"),
        *("enter 12", "step 12", "step 12", "leave 12"),
    ]


async def test_a_job_cancelled_as_soon_as_it_is_fetched_stops_too(obedient: Obedient) -> None:
    """The SDK begins a job up to 0.1 s after fetching it, and until then drops stop signals."""
    held = obedient.send(14, "wait")
    await until(lambda: "step 14\n" in obedient.worker.log)
    for _ in range(8):
        job_id = obedient.send(15)
        while await obedient.endpoint.status(job_id) == Status.IN_QUEUE:  # noqa: ASYNC110
            await asyncio.sleep(0)
        await obedient.stop(job_id)
    obedient.release(14)
    following = obedient.send(16)

    assert "output" in await obedient.endpoint.result(following)
    assert "output" in await obedient.endpoint.result(held)
    assert obedient.gpu_events_since(14)[4:] == ["enter 16", "step 16", "step 16", "leave 16"]


async def test_a_progress_post_that_hangs_is_dropped_before_the_result_is_sent(
    obedient: Obedient,
) -> None:
    """It delays its job by seconds, however long the endpoint hangs."""
    obedient.endpoint.recorder.hold_progress = 600
    job_id = obedient.send(13)
    await obedient.endpoint.result(job_id)
    obedient.endpoint.recorder.hold_progress = 0

    assert [post.get("status") for post in obedient.endpoint.of(job_id)] == ["DROPPED", None]
