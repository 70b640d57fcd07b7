"""The worker in production mode: the real handler, the real SDK loop, Runpod's side over HTTP.

One worker process serves most tests, one job after another, as on Runpod; so each test also
proves that what the one before did to the worker did not harm it.
"""

import asyncio
import io
import json
import re
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import pytest_asyncio
from PIL import Image

from kontext import embedded_bucket
from kontext.errors import INTERNAL, OutOfMemory
from tests.control_plane import ControlPlane, WorkerProcess, start_worker, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROOT = Path(__file__).parent.parent
FAKE_WORKER = Path(__file__).with_name("fake_worker.py")
EDIT: dict[str, Any] = {
    **json.loads((ROOT / "test_input.json").read_text())["input"],
    "size": "256*256",
    "num_inference_steps": 2,
}
LONG_EDIT = {**EDIT, "size": "1024*1024", "num_inference_steps": 50}
PHASES = ["fetch", "edit", "safety", "encode", "store"]

# Python 3.14 starts processes so, and imports the main module again in each.
FORKSERVER = "import multiprocessing; multiprocessing.set_start_method('forkserver')"


@dataclass(frozen=True)
class Store:
    """A bucket on disk, and the environment that points a worker at it."""

    root: Path
    environment: dict[str, str]

    @property
    def port(self) -> int:
        """Where its links lead."""
        return urlsplit(self.environment["BUCKET_ENDPOINT_URL"]).port or 0

    def config(self, **changes: str) -> dict[str, str]:
        """Return it as a job's `s3Config`."""
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
async def plane() -> AsyncIterator[ControlPlane]:
    """Runpod's side of the worker that most tests share."""
    async with ControlPlane().serve() as plane:
        yield plane


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def worker(
    plane: ControlPlane, store: Store, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[WorkerProcess]:
    """The worker that most tests share, with the tiny model and a real bucket."""
    directory = tmp_path_factory.mktemp("worker")
    (directory / "sitecustomize.py").write_text(FORKSERVER)
    environment = {
        **plane.environment,
        **store.environment,
        "PYTHONPATH": str(directory),
        "STAND_IN": "model,safety",
        "FETCH_ALLOWED_NETWORKS": "127.0.0.0/8",
        "FETCH_ALLOWED_PORTS": f"80,443,{store.port}",
    }
    async with start_worker(ROOT / "handler.py", environment, directory / "log") as worker:
        yield worker


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def other_plane() -> AsyncIterator[ControlPlane]:
    """Runpod's side of the worker with the obedient editor."""
    async with ControlPlane().serve() as plane:
        yield plane


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def obedient(
    other_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[WorkerProcess]:
    """A worker with the obedient editor."""
    directory = tmp_path_factory.mktemp("obedient")
    environment = {**other_plane.environment, "GATES": str(directory)}
    async with start_worker(FAKE_WORKER, environment, directory / "log") as worker:
        yield worker


async def opened(link: str) -> httpx.Response:
    """Open a link as anyone can."""
    return await asyncio.to_thread(httpx.get, link)


async def stop(plane: ControlPlane, worker: WorkerProcess, job_id: str) -> None:
    """Cancel a job, as Runpod does on a caller's wish."""
    plane.stop(job_id)
    await until(lambda: "Job stopped." in worker.lines(job_id))


async def test_a_job_ends_with_a_link_to_its_picture_and_its_cost(
    plane: ControlPlane, worker: WorkerProcess
) -> None:
    """What is posted is exactly the documented output; the link opens for anyone."""
    post = await plane.run("success", EDIT)

    assert post.keys() == {"id", "output"}
    assert post["output"].keys() == {"image_url", "cost"}
    assert post["output"]["cost"] == round(256 * 256 / 1e6 * 0.03, 6)
    answer = await opened(post["output"]["image_url"])
    assert answer.headers["Content-Type"] == "image/png"
    with Image.open(io.BytesIO(answer.content)) as picture:
        assert (picture.format, picture.size) == ("PNG", (256, 256))


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
    plane: ControlPlane,
    worker: WorkerProcess,
    request: pytest.FixtureRequest,
    data: object,
    sentence: str,
) -> None:
    """Whatever JSON an `input` is, a sentence that is itself valid JSON comes back."""
    job_id = request.node.callspec.id

    assert await plane.run(job_id, data) == {"id": job_id, "error": sentence}


async def test_keys_that_leak_into_the_input_are_ignored_and_named_in_the_log(
    plane: ControlPlane, worker: WorkerProcess
) -> None:
    """Runpod's AI SDK sends its polling options along."""
    post = await plane.run("leaked", {**EDIT, "maxPollAttempts": 60, "pollIntervalMillis": 5000})

    assert "output" in post
    assert 'ignored unknown input keys: "maxPollAttempts", "pollIntervalMillis"' in (
        worker.lines("leaked")
    )


async def test_a_result_that_cannot_be_stored_fails_its_job_with_one_sentence(
    plane: ControlPlane, worker: WorkerProcess, store: Store
) -> None:
    """Nor can a job's `s3Config` reach into the worker's own network."""
    post = await plane.run("not-stored", EDIT, s3Config=store.config(endpointUrl="http://10.0.0.1"))

    assert post.keys() == {"id", "error"}
    assert post["error"].startswith("The edited image could not be stored: ")
    assert "10.0.0.1" not in post["error"]


async def test_a_job_delivered_twice_is_answered_twice_and_stored_once(
    plane: ControlPlane, worker: WorkerProcess, store: Store
) -> None:
    """Runpod delivers at least once; the second result overwrites the first."""
    await plane.run("twice", EDIT)
    plane.send("twice", {**EDIT, "size": "256*272"})
    await until(lambda: len(plane.results("twice")) == 2)

    first, second = [await opened(post["output"]["image_url"]) for post in plane.results("twice")]
    assert first.content == second.content
    assert len(list(store.root.rglob("twice*"))) == 1


async def test_a_slow_progress_endpoint_gets_every_update_before_the_result(
    plane: ControlPlane, worker: WorkerProcess
) -> None:
    """Updates are objects, in order, and none is still under way when the result goes."""
    plane.hold_progress = 2
    await plane.run("slow", EDIT)
    await asyncio.sleep(plane.hold_progress)  # the time in which a late one would land
    plane.hold_progress = 0

    *updates, result = plane.of("slow")
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
    plane: ControlPlane, worker: WorkerProcess
) -> None:
    """Runpod's stop signal ends the edit amid its steps; nothing more is posted about the job."""
    plane.send("cancelled", LONG_EDIT)
    await until(lambda: bool(plane.of("cancelled")))
    await stop(plane, worker, "cancelled")
    posted = len(plane.of("cancelled"))

    assert "output" in await plane.run("after-cancelled", EDIT)
    assert not plane.results("cancelled")
    assert len(plane.of("cancelled")) == posted < LONG_EDIT["num_inference_steps"]


async def test_nothing_private_reaches_the_log(
    plane: ControlPlane, worker: WorkerProcess, store: Store
) -> None:
    """No prompt, URL query or secret is written, whether a job succeeds or fails and how.

    A prompt beyond what a tokenizer reads is among them, for it is repeated in warnings.
    """
    prompt = {**EDIT, "prompt": "XYZZY PLUGH " * 300, "negative_prompt": "XYZZY " * 300}
    link = (await plane.run("long-prompt", prompt))["output"]["image_url"]
    post = await plane.run("edited-again", {**EDIT, "image": link}, s3Config=store.config())
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
    for job_id, (changes, config) in failures.items():
        more = {"s3Config": config} if config else {}
        assert "error" in await plane.run(job_id, EDIT | changes, **more), job_id

    secret = store.environment["BUCKET_SECRET_ACCESS_KEY"]
    for private in ("xyzzy", "plugh", "bluebird", "x-amz", "base64", secret):
        assert private not in worker.log.lower()
    assert any("cause: ConnectError" in line for line in worker.lines("unreachable"))
    assert any("cause: Blocked" in line for line in worker.lines("private-bucket"))


async def test_a_done_job_leaves_one_line_with_its_timings_size_seed_and_cost(
    plane: ControlPlane, worker: WorkerProcess
) -> None:
    """Of a job that succeeds only this line is ours, in the JSON that Runpod's console reads."""
    await plane.run("logged", {**EDIT, "seed": 7})
    await until(lambda: "Finished." in worker.lines("logged"))

    started, done, finished = worker.lines("logged")
    assert (started, finished) == ("Started.", "Finished.")
    seconds = r"\d+\.\d{3} s"
    phases = ", ".join(f"{phase} {seconds}" for phase in PHASES)
    assert re.fullmatch(rf"done: {phases}; 256\*256 png, seed 7, cost 0\.001966", done)
    assert "it/s" not in worker.log  # a progress bar is for a terminal


async def test_the_model_is_loaded_once_though_the_main_module_is_imported_twice(
    plane: ControlPlane, worker: WorkerProcess
) -> None:
    """The heartbeat's process imports the handler again and only pings, naming the job it runs."""
    plane.send("heard", LONG_EDIT)
    await until(lambda: any(ping.get("job_id") == "heard" for ping in plane.pings))
    await stop(plane, worker, "heard")

    assert worker.log.count("STAND-IN model") == 1
    assert worker.log.count("Starting Serverless Worker") == 1


async def test_a_worker_told_to_end_posts_its_job_first(
    tmp_path: Path,
) -> None:
    """SIGTERM amid a job: its result is posted, then the process and all it started end.

    With every stand-in asked for by name, and with the level name that the SDK dies of.
    """
    async with ControlPlane().serve() as plane:
        environment = {
            **plane.environment,
            "STAND_IN": "model,safety,bucket",
            "RUNPOD_LOG_LEVEL": "WARNING",
        }
        async with start_worker(ROOT / "handler.py", environment, tmp_path / "log") as worker:
            plane.send("last", {**EDIT, "size": "512*512", "num_inference_steps": 20})
            await until(lambda: bool(plane.of("last")))
            worker.process.send_signal(signal.SIGTERM)
            assert not plane.results("last")
            async with asyncio.timeout(30):
                code = await worker.process.wait()

            assert code == 0
            assert plane.of("last")[-1]["output"].keys() == {"image_url", "cost"}
            assert len(re.findall("STAND-IN (bucket|model|safety checker)", worker.log)) == 3


async def test_an_unexpected_exception_is_one_fixed_sentence_and_a_whole_cause_in_the_log(
    other_plane: ControlPlane, obedient: WorkerProcess
) -> None:
    """The caller reads no cause, path or host; the log has the traceback with the job's id."""
    post = await other_plane.run("fails", {**EDIT, "prompt": "fail", "seed": 1})

    assert post == {"id": "fails", "error": INTERNAL}
    cause = next(line for line in obedient.lines("fails") if "internal error" in line)
    assert "Traceback" in cause
    assert "RuntimeError: the private cause, in /opt/private on host-of-the-worker" in cause


async def test_out_of_memory_fails_its_job_and_asks_for_another_worker(
    other_plane: ControlPlane, obedient: WorkerProcess
) -> None:
    """Runpod replaces a worker on `stopPod`; until then it takes the next job."""
    post = await other_plane.run("too-large", {**EDIT, "prompt": "run out of memory", "seed": 2})

    assert post == {"id": "too-large", "error": OutOfMemory.example, "stopPod": True}
    assert "output" in await other_plane.run("fits", {**EDIT, "seed": 3})


async def test_a_cancelled_edit_ends_at_its_next_step_and_the_next_job_waits_for_that(
    other_plane: ControlPlane, obedient: WorkerProcess
) -> None:
    """A thread outlives its cancelled task; the GPU lane is free only when it has let go.

    A job cancelled while it waits for the lane never gets there.
    """
    other_plane.send("held", {**EDIT, "prompt": "wait", "seed": 4, "num_inference_steps": 50})
    await until(lambda: "step 4\n" in obedient.log)
    await stop(other_plane, obedient, "held")
    other_plane.send("dropped", {**EDIT, "seed": 5})
    await until(lambda: "Started." in obedient.lines("dropped"))
    await asyncio.sleep(0.5)  # in which it would overtake
    await stop(other_plane, obedient, "dropped")
    other_plane.send("next", {**EDIT, "seed": 6})
    await until(lambda: "Started." in obedient.lines("next"))
    (obedient.output.parent / "4").touch()
    await until(lambda: bool(other_plane.results("next")))

    on_the_lane = re.findall("^(?:enter|step|leave) [456]$", obedient.log, re.MULTILINE)
    held = ["enter 4", "step 4", "step 4", "leave 4"]
    assert on_the_lane == [*held, "enter 6", "step 6", "step 6", "leave 6"]
    assert not other_plane.results("held")
    assert not other_plane.of("dropped")


async def test_a_progress_post_that_hangs_is_dropped_before_the_result_goes(
    other_plane: ControlPlane, obedient: WorkerProcess
) -> None:
    """It delays its job by seconds, not for as long as the endpoint likes."""
    other_plane.hold_progress = 600
    await other_plane.run("hangs", {**EDIT, "seed": 9})
    other_plane.hold_progress = 0

    assert [post.get("status") for post in other_plane.of("hangs")] == ["DROPPED", None]
