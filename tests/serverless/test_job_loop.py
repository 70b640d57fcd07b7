"""The job loop when Runpod or a caller's host fails: the real SDK over HTTP."""

import asyncio
import re
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from unittest.mock import ANY

import pytest
import pytest_asyncio
from starlette.responses import Response

from kontext.errors import OutOfMemory
from kontext.local.jobs import Status
from tests.local.served import until
from tests.support.obedient import Obedient, start_obedient

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def hanging_host() -> Iterator[str]:
    """The URL of a host that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def obedient(
    hanging_host: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Obedient]:
    """The worker that these tests share."""
    directory = tmp_path_factory.mktemp("obedient")
    settings = {
        "FETCH_ALLOWED_NETWORKS": "127.0.0.0/8",
        "FETCH_ALLOWED_PORTS": hanging_host.rpartition(":")[2],
    }
    async with start_obedient(directory, **settings) as obedient:
        yield obedient


async def test_polls_that_fail_are_rare_and_log_one_line(obedient: Obedient) -> None:
    """The worker continues when the server works again."""
    recorder = obedient.endpoint.recorder
    await obedient.endpoint.result(obedient.send(0))
    recorder.instead["/job-take/"] = Response(status_code=502)
    recorder.instead["/job-stop/"] = Response(status_code=502)
    await obedient.endpoint.result(obedient.send(1))  # the server held the poll for it already
    since = recorder.polls
    await asyncio.sleep(2)
    polls = recorder.polls - since
    recorder.instead.clear()

    assert 1 <= polls <= 12
    assert "output" in await obedient.endpoint.result(obedient.send(2))
    assert len(re.findall("502", obedient.worker.log)) <= 2
    assert "polls for a job failed: 1, the last: ClientResponseError: 502" in obedient.worker.log


async def test_a_worker_that_shuts_down_posts_a_result_after_an_outage(
    tmp_path: Path,
) -> None:
    """The SDK drops a result after three tries, within three seconds."""
    async with start_obedient(tmp_path) as obedient:
        recorder = obedient.endpoint.recorder
        recorder.instead["/job-done/"] = Response(status_code=503)
        job_id = obedient.send(3)
        await obedient.started(job_id)
        obedient.worker.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(12)  # 5 of them for the progress post, which is then dropped
        recorder.instead.clear()

        assert await obedient.worker.exit_code() == 0
        assert obedient.endpoint.results(job_id)[0]["output"]
        assert "posts of results and progress failed: 1, the last" in obedient.worker.log
        assert obedient.worker.lines(job_id) == ["Started.", ANY, "Finished."]


async def test_four_hosts_that_hang_delay_the_next_job_for_seconds_only(
    obedient: Obedient, hanging_host: str
) -> None:
    """One after another they used to delay it for a minute, while the GPU was idle."""
    hanging = [obedient.send(10 + n, image=hanging_host) for n in range(4)]
    async with asyncio.timeout(30):
        assert "output" in await obedient.endpoint.result(obedient.send(20))

    assert any(not obedient.endpoint.results(job_id) for job_id in hanging)


async def test_eight_buckets_that_hang_do_not_delay_the_next_job(
    obedient: Obedient, hanging_host: str
) -> None:
    """Four uploads used to block the worker for a minute, and the other four for another."""
    config = {
        "accessId": "key",
        "accessSecret": "secret",
        "bucketName": "bucket",
        "endpointUrl": hanging_host,
    }
    hanging = [obedient.send(30 + n, s3Config=config) for n in range(8)]
    async with asyncio.timeout(30):
        assert "output" in await obedient.endpoint.result(obedient.send(40))

    assert obedient.gpu_events_since(30)[-4:] == ["enter 40", "step 40", "step 40", "leave 40"]
    assert not any(obedient.endpoint.results(job_id) for job_id in hanging)


@pytest.mark.parametrize("answer", ["null", '"job"', '[{"input": {}}]', '{"id": 7}', "{"])
async def test_an_answer_that_is_no_job_is_a_poll_that_fails(
    obedient: Obedient, answer: str
) -> None:
    """Else the SDK's loop would end on it, and the worker with the loop."""
    recorder = obedient.endpoint.recorder
    await obedient.endpoint.result(obedient.send(49))
    recorder.instead["/job-take/"] = Response(answer, media_type="application/json")
    await obedient.endpoint.result(obedient.send(50))  # the poll for it was held already
    polls = recorder.polls
    await until(lambda: recorder.polls > polls + 1)
    recorder.instead.clear()

    assert "output" in await obedient.endpoint.result(obedient.send(51))
    assert obedient.worker.process.returncode is None


async def test_after_a_job_that_asks_for_another_worker_none_is_taken(tmp_path: Path) -> None:
    """What it has it answers; what waits is left to the worker that comes."""
    async with start_obedient(tmp_path) as obedient:
        spent, waiting = obedient.send(70, "memory not freed"), obedient.send(71)
        code = await obedient.worker.exit_code()

        assert code == 1
        (post,) = obedient.endpoint.results(spent)
        assert post == {"id": spent, "error": OutOfMemory.example, "stopPod": True}
        assert await obedient.endpoint.status(waiting) == Status.IN_QUEUE
        assert "the worker ends, so that another one starts" in obedient.worker.log
