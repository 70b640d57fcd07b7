"""The embedded bucket: a real S3 server that ends with its parent."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from kontext.errors import BootError, StorageError
from kontext.settings import Settings
from kontext.storage import embedded_bucket
from kontext.storage.bucket import Bucket
from kontext.storage.result_file import ResultFile
from tests.local.served import processes
from tests.support.s3_server import download

pytestmark = pytest.mark.usefixtures("clean_environment")

FILE = ResultFile("job-1", "png", b"pixels", "image/png", {})

SERVES_AND_WAITS = """
import sys, time
from pathlib import Path
from kontext.storage import embedded_bucket
with embedded_bucket.serve(Path(sys.argv[1])) as environment:
    print(environment["BUCKET_ENDPOINT_URL"], flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment variables of a running embedded bucket."""
    with embedded_bucket.serve(tmp_path_factory.mktemp("bucket")) as environment:
        yield environment


def open_bucket(environment: dict[str, str], **changes: str) -> Bucket:
    settings = {name.lower(): value for name, value in environment.items()} | changes
    return Bucket.from_settings(Settings.load(**settings))


def has_gone(url: str) -> bool:
    """Wait up to half a minute until the server has ended."""
    for _ in range(1500):
        if not is_listening(url):
            return True
        time.sleep(0.02)
    return False


def is_listening(url: str, host: str = "127.0.0.1") -> bool:
    try:
        socket.create_connection((host, urlsplit(url).port or 0), timeout=1).close()
    except OSError:
        return False
    return True


async def test_serves_what_a_worker_stores(environment: dict[str, str]) -> None:
    """It passes the boot check, and a link works without credentials."""
    bucket = open_bucket(environment)
    bucket.check()

    answer = await download(await bucket.store(FILE))

    assert (answer.status_code, answer.content) == (200, FILE.content)
    assert answer.headers["Content-Type"] == "image/png"


@pytest.mark.parametrize(
    "change",
    [("X-Amz-Signature=", "X-Amz-Signature=0"), ("job-1", "job-2")],
    ids=["signature", "key"],
)
async def test_checks_signatures(environment: dict[str, str], change: tuple[str, str]) -> None:
    """A link that was changed does not work."""
    bucket = open_bucket(environment)
    await bucket.store(ResultFile("job-2", "png", b"others", "image/png", {}))
    link = await bucket.store(FILE)

    assert (await download(link.replace(*change))).status_code == 403


async def test_a_web_page_without_a_link_reads_nothing(environment: dict[str, str]) -> None:
    """A page can neither read nor write, and a link does not work under the page's own host name.

    rclone serves any host name, but a link's signature covers its host, which prevents DNS
    rebinding. Every page can read the response to a valid link, and no flag of rclone changes that:
    whoever has the link may read the image.
    """
    link = await open_bucket(environment).store(FILE)
    page = {"Origin": "https://evil.example"}
    async with httpx.AsyncClient(headers=page) as client:
        unsigned = await client.get(link.partition("?")[0])
        listing = await client.get(environment["BUCKET_ENDPOINT_URL"])
        preflight = await client.options(link, headers={"Access-Control-Request-Method": "PUT"})
        rebound = await client.get(link, headers={"Host": "evil.example"})

    answers = [unsigned, listing, preflight, rebound]
    assert [answer.status_code for answer in answers] == [400, 400, 403, 403]
    for answer in answers:
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_no_process_shows_its_keys(environment: dict[str, str]) -> None:
    """Every user of the machine can read command lines."""
    shown = [processes(environment[name]) for name in environment if "ACCESS_KEY" in name]

    assert shown == [[], []]


async def test_checks_secrets(environment: dict[str, str]) -> None:
    """An upload with a wrong secret is refused."""
    with pytest.raises(StorageError, match="the secret access key is wrong"):
        await open_bucket(environment, bucket_secret_access_key="wrong").store(FILE)


def test_every_server_has_its_own_key(environment: dict[str, str], tmp_path: Path) -> None:
    """Keys are random."""
    with embedded_bucket.serve(tmp_path) as other:
        mine = {environment["BUCKET_ACCESS_KEY_ID"], environment["BUCKET_SECRET_ACCESS_KEY"]}

        assert not mine & set(other.values())


def test_listens_on_loopback_alone(environment: dict[str, str]) -> None:
    """It is bound to one address: a wildcard would answer on 127.0.0.2 as well."""
    url = environment["BUCKET_ENDPOINT_URL"]

    assert is_listening(url)
    assert not is_listening(url, "127.0.0.2")


def test_ends_with_its_block(tmp_path: Path) -> None:
    """After the block no server listens."""
    with embedded_bucket.serve(tmp_path) as environment:
        pass

    assert not is_listening(environment["BUCKET_ENDPOINT_URL"])


async def test_links_outlive_a_restart_with_a_memory(tmp_path: Path) -> None:
    """Keys and port are kept in a file that only its owner may read."""
    memory = tmp_path / "memory.json"
    with embedded_bucket.serve(tmp_path / "bucket", state=memory) as environment:
        link = await open_bucket(environment).store(FILE)
    with embedded_bucket.serve(tmp_path / "bucket", state=memory):
        answer = await download(link)

    assert answer.content == FILE.content
    assert memory.stat().st_mode & 0o777 == 0o600


def test_a_memory_whose_port_is_taken_gives_another(tmp_path: Path) -> None:
    """The server still starts, with the same keys."""
    memory = tmp_path / "memory.json"
    with embedded_bucket.serve(tmp_path / "bucket", state=memory) as before:
        pass
    taken = urlsplit(before["BUCKET_ENDPOINT_URL"]).port
    with (
        socket.create_server(("127.0.0.1", taken or 0)),
        embedded_bucket.serve(tmp_path / "bucket", state=memory) as after,
    ):
        open_bucket(after).check()

    assert after["BUCKET_ENDPOINT_URL"] != before["BUCKET_ENDPOINT_URL"]
    assert after["BUCKET_ACCESS_KEY_ID"] == before["BUCKET_ACCESS_KEY_ID"]


def test_a_damaged_state_file_is_written_again(tmp_path: Path) -> None:
    """If a process died while writing the file, links are lost, but the server starts."""
    memory = tmp_path / "memory.json"
    memory.write_text('{"BUCKET_ENDPOINT_URL": "http://127')

    with embedded_bucket.serve(tmp_path / "bucket", state=memory) as environment:
        open_bucket(environment).check()

    assert json.loads(memory.read_text()) == environment


@pytest.mark.hostile("kills")
@pytest.mark.parametrize(
    "number",
    [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP],
    ids=lambda number: number.name,
)
def test_ends_with_its_parent(number: signal.Signals, tmp_path: Path) -> None:
    """The server ends however its parent ends, even if the whole process group is killed."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVES_AND_WAITS, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as parent:
        url = parent.stdout.readline().strip() if parent.stdout else ""
        assert is_listening(url)

        os.killpg(parent.pid, number)

        assert parent.wait(timeout=30) == -number
    assert has_gone(url)


@pytest.mark.hostile("kills")
def test_ends_with_its_parent_even_if_a_fork_lives_on(tmp_path: Path) -> None:
    """The SDK forks its heartbeat, which outlives a worker that is killed."""
    program = """
import multiprocessing, sys, time
from pathlib import Path
from kontext.storage import embedded_bucket
with embedded_bucket.serve(Path(sys.argv[1])) as environment:
    multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,)).start()
    print(environment["BUCKET_ENDPOINT_URL"], flush=True)
    time.sleep(60)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as parent:
        url = parent.stdout.readline().strip() if parent.stdout else ""
        parent.kill()
        parent.wait(timeout=30)
        try:
            assert has_gone(url)
        finally:
            os.killpg(parent.pid, signal.SIGKILL)


def test_its_parent_can_exit(tmp_path: Path) -> None:
    """A process that ends the server by `atexit`, as the worker does, exits."""
    program = """
import atexit, sys
from contextlib import ExitStack
from pathlib import Path
from kontext.storage import embedded_bucket
stack = ExitStack()
stack.enter_context(embedded_bucket.serve(Path(sys.argv[1])))
atexit.register(stack.close)
"""
    ended = subprocess.run([sys.executable, "-c", program, str(tmp_path)], timeout=60, check=False)

    assert ended.returncode == 0


def test_a_server_that_does_not_start_is_a_boot_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sentence repeats rclone's error; the start does not hang."""
    monkeypatch.setenv("RCLONE_VFS_CACHE_MODE", "no-such-mode")

    with pytest.raises(BootError, match="no-such-mode"), embedded_bucket.serve(tmp_path):
        pass
