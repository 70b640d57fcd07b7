"""Compiled once, trusted only when signed: the artifacts that an endpoint's workers share."""

import json
import logging
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import flux_model
import pytest
import torch

from kontext.errors import BootError, SettingsError
from kontext.inference.compile_cache import CompileCache, identity
from kontext.inference.editor import Editor
from kontext.inference.model import Model
from kontext.inference.plan import Plan
from kontext.inference.warm_up import warm_up
from kontext.settings import Settings
from kontext.startup.artifact_places import Directory, Store, open_place
from kontext.startup.artifact_store import MAX_BYTES, SignedStore, Untrusted, open_store
from kontext.storage import embedded_bucket
from tests.support.s3_server import Key, StrictServer, unused_port

pytestmark = pytest.mark.usefixtures("clean_environment")
needs_a_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="torch compiles with g++ on a CPU"
)

SECRET = "the deployer's secret"
ARTIFACT = b"compiled code"
KEY = "this model on this card"

A_WORKER = """
import hashlib, json, logging, sys
from pathlib import Path
import numpy
from PIL import Image
from torch._dynamo.utils import counters
from kontext.inference import acceleration, compile_cache
from kontext.startup.artifact_places import Directory
from kontext.startup.artifact_store import SignedStore
from kontext.inference.edit import Edit
from kontext.inference.editor import Editor
import flux_model
from kontext.inference.model import Model
from kontext.inference.plan import EXACT
from kontext.contract.request import EditRequest
from kontext.contract.size import Size
from kontext.inference.warm_up import warm_up

def edit(width, height, reference, negative_prompt=""):
    size, image = Size(width, height), Image.new("RGB", reference, "navy")
    request = EditRequest(
        prompt="hat", image="data:,", negative_prompt=negative_prompt, num_inference_steps=1
    )
    return editor.edit(Edit(request, image, size, size, 7), lambda _: None)

model = Model(flux_model.pipeline(), "random", "none")
acceleration.prepare(model.pipeline, EXACT)
acceleration.compile(model.pipeline)
editor = Editor(model, 2.5)
store = SignedStore(Directory(Path(sys.argv[1])), "the deployer's secret")
cache = compile_cache.CompileCache(store, compile_cache.identity(model))
loaded = cache.load()
warm_up(editor)
warm = dict(counters["stats"])
saved = cache.save()
edit(256, 256, (256, 256))  # as many tokens of images as of text
edit(336, 592, (256, 400), "a cat")
image = edit(272, 304, (288, 256))
print(json.dumps({
    "loaded": loaded,
    "saved": saved,
    "graphs": warm["unique_graphs"],
    "graphs_after_warm_up": counters["stats"]["unique_graphs"] - warm["unique_graphs"],
    "hits": counters["inductor"]["fxgraph_cache_hit"],
    "misses": counters["inductor"]["fxgraph_cache_miss"],
    "traced_hits": counters["aot_autograd"]["autograd_cache_hit"],
    "traced_again": counters["aot_autograd"]["autograd_cache_saved"],
    "image": hashlib.sha256(numpy.asarray(image).tobytes()).hexdigest(),
}))
"""


class FullDisk:
    """A store that can neither be read nor written."""

    def read(self, name: str, max_bytes: int) -> bytes | None:
        raise OSError("input/output error")

    def write(self, name: str, content: bytes) -> None:
        raise OSError("no space left on device")


@dataclass(frozen=True)
class Volume:
    """A directory that workers share, and its one file."""

    path: Path

    def signed(self, secret: str = SECRET, largest: int = MAX_BYTES) -> SignedStore:
        return SignedStore(Directory(self.path), secret, largest)

    @property
    def file(self) -> Path:
        (file,) = self.path.iterdir()
        return file

    def cache(self, largest: int = MAX_BYTES) -> CompileCache:
        return CompileCache(self.signed(largest=largest), KEY)


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    """A network volume with one signed artifact that is nothing to torch."""
    volume = Volume(tmp_path / "volume")
    volume.signed().write(KEY, ARTIFACT)
    return volume


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two fresh workers of one endpoint say, one after the other; nothing else is shared."""
    volume = tmp_path_factory.mktemp("volume") / "made-by-the-first"
    return [run_worker(volume, tmp_path_factory.mktemp("worker")) for _ in range(2)]


def run_worker(volume: Path, home: Path) -> dict[str, Any]:
    """Run one in a process of its own, on a disk of its own."""
    own = {
        "TORCHINDUCTOR_CACHE_DIR": str(home / "inductor"),
        "TRITON_CACHE_DIR": str(home / "triton"),
        "PYTHONPATH": str(Path(flux_model.__file__).parent),
    }
    command = [sys.executable, "-c", A_WORKER, str(volume)]
    ended = subprocess.run(
        command, env=os.environ | own, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    answer: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return answer


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """This process has compiled something, which needs no C++: a product is ready-made."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("inductor")))
        torch.compile(lambda matrix: matrix @ matrix)(torch.ones(3, 3))
        yield


# --- Two workers


@needs_a_compiler
@pytest.mark.timeout(600)  # whichever of these comes first has two workers compile
def test_the_first_worker_compiles_and_keeps_it(workers: list[dict[str, Any]]) -> None:
    """Nothing was there: every graph is a miss."""
    first = workers[0]

    assert (first["loaded"], first["saved"]) == (False, True)
    assert (first["hits"], first["misses"]) == (0, first["graphs"])
    assert first["traced_again"] == first["graphs"] > 0


@needs_a_compiler
def test_the_second_worker_compiles_nothing(workers: list[dict[str, Any]]) -> None:
    """Every graph is a hit, in both of torch's caches, so there is nothing to keep again."""
    second = workers[1]

    assert (second["loaded"], second["saved"]) == (True, False)
    assert (second["hits"], second["misses"]) == (second["graphs"], 0)
    assert (second["traced_hits"], second["traced_again"]) == (second["graphs"], 0)


@needs_a_compiler
def test_loaded_code_makes_the_same_image(workers: list[dict[str, Any]]) -> None:
    """Bit for bit, on one machine."""
    first, second = workers

    assert second["image"] == first["image"]


@needs_a_compiler
def test_the_warm_up_compiles_for_every_size(workers: list[dict[str, Any]]) -> None:
    """Also for as many image tokens as text tokens, and for a negative prompt."""
    assert [worker["graphs_after_warm_up"] for worker in workers] == [0, 0]


def test_a_card_that_cannot_hold_a_usual_edit_is_refused_at_boot() -> None:
    """Not at every job."""
    model = Model(flux_model.pipeline(), "random", "none")
    model.pipeline.set_progress_bar_config(disable=True)

    def fill(_module: object, inputs: tuple[torch.Tensor]) -> None:
        if inputs[0].shape[1] > 8000:  # tokens: 4096 of the image, 4096 of the reference
            raise torch.OutOfMemoryError

    model.pipeline.transformer.x_embedder.register_forward_pre_hook(fill)
    with pytest.raises(BootError, match=r"cannot hold an edit of 1024\*1024 with MODE=exact"):
        warm_up(Editor(model, 2.5))


# --- What is not trusted


def tampered(content: bytes) -> bytes:
    """Flip one bit of the last byte."""
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(b"", "damaged, or not signed", id="empty"),
        pytest.param(b"\x80\x04.", "damaged, or not signed", id="shorter-than-a-signature"),
        pytest.param(ARTIFACT + bytes(32), "damaged, or not signed", id="unsigned"),
        pytest.param(bytes(5000), "larger than 4096 bytes", id="oversized"),
    ],
)
def test_a_foreign_file_is_ignored_with_one_line(
    volume: Volume, caplog: pytest.LogCaptureFixture, content: bytes, reason: str
) -> None:
    """The boot goes on, and the log says why it takes longer."""
    volume.file.write_bytes(content)

    assert volume.cache(largest=4096).load() is False

    (record,) = caplog.records
    assert (record.name, record.levelno) == ("kontext", logging.WARNING)
    assert reason in record.getMessage()


@pytest.mark.parametrize("place", [0, 31, 32, -1], ids=["first", "signature", "code", "last"])
def test_one_wrong_bit_anywhere_is_noticed(volume: Volume, place: int) -> None:
    """In the signature as in what it signs."""
    content = bytearray(volume.file.read_bytes())
    content[place] ^= 1
    volume.file.write_bytes(content)

    with pytest.raises(Untrusted, match="damaged, or not signed"):
        volume.signed().read(KEY)


def test_a_file_that_was_cut_off_is_noticed(volume: Volume) -> None:
    """As by a worker that died on a volume that lost its last writes."""
    content = volume.file.read_bytes()
    for length in range(len(content)):
        volume.file.write_bytes(content[:length])
        with pytest.raises(Untrusted, match="damaged, or not signed"):
            volume.signed().read(KEY)


def test_another_secret_does_not_open_it(volume: Volume) -> None:
    """Whoever may write to the volume cannot run code in the workers."""
    assert volume.signed().read(KEY) == ARTIFACT
    with pytest.raises(Untrusted, match="damaged, or not signed"):
        volume.signed("another secret").read(KEY)


def test_an_artifact_is_not_found_under_another_key(volume: Volume) -> None:
    """Another model, card or version looks for a name of its own."""
    assert volume.signed().read("another key") is None


def test_an_artifact_cannot_be_replayed_under_another_key(volume: Volume) -> None:
    """The signature covers the key: a file that was renamed is foreign."""
    original = volume.file.read_bytes()
    volume.signed().write("another key", b"other code")
    for file in volume.path.iterdir():
        file.write_bytes(original)

    assert volume.signed().read(KEY) == ARTIFACT
    with pytest.raises(Untrusted, match="damaged, or not signed"):
        volume.signed().read("another key")


def test_a_pipe_in_its_place_does_not_hang_the_boot(volume: Volume) -> None:
    """Only a plain file is opened."""
    path = volume.file
    path.unlink()
    os.mkfifo(path)

    assert volume.cache().load() is False


def test_a_pipe_that_takes_its_place_while_it_is_read_does_not_hang_the_boot(
    volume: Volume,
) -> None:
    """Of a path that was a file a moment ago, too, only a plain file is read."""
    path, spare = volume.file, volume.path.parent / "spare"
    signed, swapping = path.read_bytes(), threading.Event()

    def swap() -> None:
        while swapping.is_set():
            os.mkfifo(spare)
            spare.replace(path)
            spare.write_bytes(signed)
            spare.replace(path)

    def read() -> None:
        for _ in range(3000):
            volume.signed().read(KEY)

    swapping.set()
    swapper, reader = (threading.Thread(target=work, daemon=True) for work in (swap, read))
    swapper.start()
    reader.start()
    reader.join(20)
    swapping.clear()

    assert not reader.is_alive()


def test_an_earlier_artifact_of_the_same_key_is_accepted(volume: Volume) -> None:
    """The limit that docs/deploy.md names: a signature tells who and for what, not when."""
    earlier = volume.file.read_bytes()
    volume.signed().write(KEY, b"compiled since")
    volume.file.write_bytes(earlier)

    assert volume.signed().read(KEY) == ARTIFACT


@pytest.mark.usefixtures("compiled")
def test_what_is_not_signed_never_reaches_torch(
    volume: Volume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch's own directory stays empty; with the right signature it is filled."""
    torchs_own = tmp_path / "inductor"
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(torchs_own))
    assert volume.cache().save() is True
    signed = volume.file.read_bytes()

    volume.file.write_bytes(tampered(signed))
    assert volume.cache().load() is False
    assert not torchs_own.exists()

    volume.file.write_bytes(signed)
    assert volume.cache().load() is True
    assert any(file.is_file() for file in torchs_own.rglob("*"))


@pytest.mark.parametrize(
    ("place", "secret", "lines"),
    [
        pytest.param("", SECRET, 0, id="no-place"),
        pytest.param("/volume", "", 1, id="no-secret"),
    ],
)
def test_without_place_and_secret_it_is_off(
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    secret: str,
    lines: int,
) -> None:
    """Code is loaded only from where the deployer said; a place alone is said to be too little."""
    monkeypatch.setenv("COMPILE_CACHE", place)
    monkeypatch.setenv("COMPILE_CACHE_SECRET", secret)

    assert open_store(Settings.load()) is None
    assert len(caplog.records) == lines


@pytest.mark.usefixtures("compiled")
def test_with_both_it_is_on(tmp_path: Path) -> None:
    """What one worker keeps, another loads, by the settings alone."""
    both = {"COMPILE_CACHE": str(tmp_path), "COMPILE_CACHE_SECRET": SECRET}
    stores = open_store(settings(both)), open_store(settings(both))
    assert all(stores)
    first, second = (CompileCache(store, KEY) for store in stores if store)

    assert [second.load(), first.save(), second.load()] == [False, True, True]


# --- What goes wrong


def test_signed_nonsense_is_ignored(volume: Volume, caplog: pytest.LogCaptureFixture) -> None:
    """As an artifact of a torch that writes another format, which its version should tell."""
    assert volume.cache().load() is False
    (line,) = [record.getMessage() for record in caplog.records if record.name == "kontext"]
    assert line.endswith("torch cannot read it")


@pytest.mark.usefixtures("compiled")
def test_what_was_ignored_is_replaced(volume: Volume) -> None:
    """The worker that had to compile repairs it for the next."""
    volume.file.write_bytes(b"damaged")
    cache = volume.cache()

    assert [cache.load(), cache.save()] == [False, True]
    assert volume.cache().load() is True


@pytest.mark.usefixtures("compiled")
def test_a_store_that_fails_costs_two_lines_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """One for the load, one for the save; the worker serves."""
    cache = CompileCache(SignedStore(FullDisk(), SECRET), KEY)

    assert [cache.load(), cache.save()] == [False, False]
    read, written = [record.getMessage() for record in caplog.records]
    assert "input/output error" in read
    assert "no space left on device" in written


@pytest.mark.usefixtures("compiled")
def test_what_is_too_large_to_be_read_back_is_not_kept(
    volume: Volume, caplog: pytest.LogCaptureFixture
) -> None:
    """And what was kept before stays."""
    before = volume.file.read_bytes()

    assert volume.cache(largest=100).save() is False
    assert "larger than 100 bytes" in caplog.text
    assert volume.file.read_bytes() == before


def test_two_workers_that_save_at_once_do_no_harm(tmp_path: Path) -> None:
    """A reader sees one or the other, whole, and no temporary file stays behind."""
    volume = Volume(tmp_path)
    artifacts = [letter * 300_000 for letter in (b"a", b"b")]
    volume.signed().write(KEY, artifacts[0])
    savers = [threading.Thread(target=save_often, args=(volume, each)) for each in artifacts]
    for saver in savers:
        saver.start()
    seen = set()
    while any(saver.is_alive() for saver in savers):
        seen.add(volume.signed().read(KEY))

    assert seen <= set(artifacts)
    assert volume.signed().read(KEY) in artifacts
    assert len(list(tmp_path.iterdir())) == 1


def save_often(volume: Volume, artifact: bytes) -> None:
    for _ in range(100):
        volume.signed().write(KEY, artifact)


def test_a_directory_that_cannot_be_replaced_keeps_no_temporary_file(tmp_path: Path) -> None:
    """What failed leaves the volume as it was."""
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken"):
        Directory(tmp_path).write("taken", ARTIFACT)

    assert [file.name for file in tmp_path.iterdir()] == ["taken"]


# --- Keys


def test_everything_that_makes_compiled_code_what_it_is_changes_the_key() -> None:
    """Code for another model, revision, mode, card or version must not be found."""
    model = Model(flux_model.pipeline(), "random", "none")
    keys = {
        identity(model),
        identity(replace(model, plan=Plan("fast", transformer="float8"))),
        identity(replace(model, name="another")),
        identity(replace(model, revision="another")),
    }

    assert len(keys) == 4
    assert json.loads(identity(model)).keys() >= {"torch", "torchao", "triton", "python", "device"}


# --- The bucket


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """The settings of a worker with a bucket."""
    with embedded_bucket.serve(tmp_path_factory.mktemp("bucket")) as environment:
        yield settings(environment)


def settings(environment: dict[str, str], **changes: str) -> Settings:
    return Settings.load(**{name.lower(): value for name, value in environment.items()} | changes)


def kept_in(store: Store) -> bytes | None:
    return SignedStore(store, SECRET).read(KEY)


def test_a_bucket_keeps_what_is_written_under_its_prefix(bucket: Settings) -> None:
    """Another prefix is another place."""
    SignedStore(open_place("bucket:one/", bucket), SECRET).write(KEY, ARTIFACT)

    assert kept_in(open_place("bucket:one/", bucket)) == ARTIFACT
    assert kept_in(open_place("bucket:two/", bucket)) is None


def test_of_a_large_object_no_more_is_fetched_than_the_cap(bucket: Settings) -> None:
    """A stranger's terabyte must not fill the worker's memory."""
    store = open_place("bucket:large/", bucket)
    SignedStore(store, SECRET).write(KEY, bytes(100_000))

    with pytest.raises(Untrusted, match="larger than 1000 bytes"):
        SignedStore(store, SECRET, max_bytes=1000).read(KEY)
    store.write("object", bytes(100_000))
    assert store.read("object", 10) == bytes(10)


def test_a_key_that_may_not_list_hears_that_nothing_is_there(
    s3_server: StrictServer, worker_key: Key, bucket_name: str
) -> None:
    """S3 answers 403, not 404, to the key that docs/deploy.md recommends."""
    environment = s3_server.environment(bucket_name, worker_key)
    store = open_place("bucket:compiled/", settings(environment))
    before = kept_in(store)
    SignedStore(store, SECRET).write(KEY, ARTIFACT)

    assert (before, kept_in(store)) == (None, ARTIFACT)


def test_a_bucket_that_is_gone_is_ignored(
    bucket: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """One line, and the boot goes on."""
    gone = bucket.model_copy(update={"bucket_endpoint_url": f"http://127.0.0.1:{unused_port()}"})
    cache = CompileCache(SignedStore(open_place("bucket:compiled/", gone), SECRET), KEY)

    assert cache.load() is False
    (line,) = [record.getMessage() for record in caplog.records if record.name == "kontext"]
    assert "Could not connect" in line


def test_a_bucket_that_nobody_named_is_a_wrong_setting() -> None:
    """What the deployer mistyped is said by name, as with every setting."""
    with pytest.raises(SettingsError, match="BUCKET_NAME is not set"):
        open_place("bucket:compiled/", settings({}))
