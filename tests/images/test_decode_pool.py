"""Decoding in child processes: one that hangs, crashes or takes too long affects no other image."""

import asyncio
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import psutil
import pytest
from PIL import Image
from ssrfguard import Policy

from kontext.errors import DecodeError
from kontext.images.decode import decode
from kontext.images.decode_pool import MAX_PROCESS_IMAGES, DecodePool, PixelBudget
from kontext.images.decoder_process import DecoderProcess
from kontext.images.decoder_protocol import pixel_cpu_seconds
from kontext.images.fetch import ImageFetcher
from tests.support.images import (
    encoded,
    gif_bomb,
    jpeg_segment,
    jpeg_with_segments,
    oriented,
    plain,
    png_chunk,
    png_claiming,
    png_with_chunks,
    quadrants,
)

PNG = encoded(plain(), "PNG")


@pytest.fixture
def decoders() -> Iterator[DecodePool]:
    """A new pool."""
    fresh = DecodePool()
    yield fresh
    fresh.close()


def decoder_ids() -> set[int]:
    """Return the ids of this process's decoder processes."""
    return {
        child.pid
        for child in psutil.Process().children()
        if child.status() != psutil.STATUS_ZOMBIE
        and "kontext.images.decoder_program" in child.cmdline()
    }


def test_a_process_of_its_own_decodes_the_same(decoders: DecodePool) -> None:
    """Pixels and refusals arrive complete, one after another."""
    content = encoded(quadrants(), "PNG", exif=oriented(6))

    for _ in range(2):
        assert decoders.decode(content).tobytes() == decode(content).tobytes()
        with pytest.raises(DecodeError, match=r"^Invalid image: sides must be .* got 8\*8$"):
            decoders.decode(encoded(plain(8, 8), "PNG"))


def test_large_images_come_across_whole(decoders: DecodePool) -> None:
    """Files and pixels may exceed a pipe's capacity many times."""
    content = encoded(Image.effect_noise((2000, 1500), 80), "PNG")

    assert len(content) > 1_000_000
    assert decoders.decode(content).tobytes() == decode(content).tobytes()


def test_the_process_is_kept_for_the_next_image(decoders: DecodePool) -> None:
    """Starting an interpreter takes longer than decoding; a refusal does not end the process."""
    before = decoder_ids()
    decoders.decode(PNG)
    first = decoder_ids() - before
    with pytest.raises(DecodeError):
        decoders.decode(b"no image")
    decoders.decode(PNG)

    assert len(first) == 1
    assert decoder_ids() - before == first


def test_the_process_is_replaced_after_a_number_of_images(decoders: DecodePool) -> None:
    """Memory that a decoder leaks is freed with its process."""
    before = decoder_ids()
    decoders.decode(PNG)
    first = decoder_ids() - before
    for _ in range(MAX_PROCESS_IMAGES):
        decoders.decode(PNG)
    last = decoder_ids() - before

    assert len(first) == len(last) == 1
    assert first != last


def test_the_cause_of_a_refusal_is_its_own(decoders: DecodePool) -> None:
    """The log of one image holds nothing of the image before."""
    causes = []
    for content in (png_claiming(8, 8), b"no image", png_claiming(8, 8)):
        with pytest.raises(DecodeError) as caught:
            decoders.decode(content)
        causes.append(str(caught.value.__cause__))

    assert "not a JPEG" in causes[1]
    assert "8*8" not in causes[1]
    assert causes[0] == causes[2]


def stopped(before: set[int], count: int = 1) -> set[int]:
    """Stop that many decoders as soon as they have started; return their process ids."""
    hanging: set[int] = set()
    while len(hanging) < count:
        for process in decoder_ids() - before - hanging:
            os.kill(process, signal.SIGSTOP)
            hanging.add(process)
        time.sleep(0.01)
    return hanging


@pytest.mark.hostile("kills")
def test_a_decoder_that_hangs_is_killed(decoders: DecodePool) -> None:
    """It is killed at the deadline, and the next image is decoded."""
    before = decoder_ids()
    with ThreadPoolExecutor() as pool:
        hanging = pool.submit(decoders.decode, gif_bomb(), seconds=2)
        stopped(before)
        with pytest.raises(DecodeError) as caught:
            hanging.result()

    assert str(caught.value) == "Invalid image: it takes more than 2 seconds to decode"
    assert decoder_ids() == before
    assert decoders.decode(PNG).size == (64, 48)


@pytest.mark.hostile("kills")
async def test_eight_hanging_images_hold_up_no_other(decoders: DecodePool) -> None:
    """A good image is decoded while all of them hang: there are enough threads and processes."""
    before = decoder_ids()
    bomb = gif_bomb()
    source = ImageFetcher(Policy(), decode=lambda content, _: decoders.decode(content or bomb))
    jobs = [asyncio.create_task(source.fetch("data:,")) for _ in range(8)]
    with ThreadPoolExecutor(1) as pool:
        hanging = await asyncio.wrap_future(pool.submit(stopped, before, 8))
    async with asyncio.timeout(10):
        image = await source.fetch(f"data:,{'%' + PNG.hex('%')}")
    still_hanging = [job.done() for job in jobs].count(False)
    for process in hanging:
        os.kill(process, signal.SIGKILL)
    refusals = await asyncio.gather(*jobs, return_exceptions=True)

    assert image.size == (64, 48)
    assert still_hanging == 8
    assert {str(refusal) for refusal in refusals} == {"Invalid image: its decoder crashed"}


@pytest.mark.hostile("kills")
def test_there_are_no_more_processes_than_allowed() -> None:
    """Further images wait for a process, which bounds the memory."""
    decoders, before = DecodePool(max_processes=2), decoder_ids()
    with ThreadPoolExecutor() as pool:
        images = [pool.submit(decoders.decode, gif_bomb(), seconds=30) for _ in range(2)]
        hanging = stopped(before, 2)
        images.append(pool.submit(decoders.decode, PNG))
        time.sleep(0.5)  # in which a third would start
        assert decoder_ids() - before == hanging
        for process in hanging:
            os.kill(process, signal.SIGKILL)
        assert images[-1].result().size == (64, 48)
    decoders.close()


def test_large_images_wait_for_the_pixel_budget_and_small_ones_do_not() -> None:
    """Two of 40 megapixels are decoded at once, and any number of up to 4."""
    budget, leave, entered = PixelBudget(80_000_000), Event(), []

    def stay(pixels: int) -> None:
        with budget.reserve(pixels):
            entered.append(pixels)
            leave.wait(10)

    with ThreadPoolExecutor() as pool:
        stays = [pool.submit(stay, 40_000_000) for _ in range(2)]
        until(lambda: len(entered) == 2)
        stays += [pool.submit(stay, 20_000_000), pool.submit(stay, 4_000_000)]
        until(lambda: len(entered) == 3)
        assert entered[-1] == 4_000_000
        leave.set()
        for each in stays:
            each.result()

    assert entered[-1] == 20_000_000


def until(happened: Callable[[], bool]) -> None:
    """Wait until it has happened, at most ten seconds."""
    deadline = time.monotonic() + 10
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


MEGABYTE_PROFILE = png_chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(1_000_000), 9))

BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "15,000 profiles": (
        lambda: png_with_chunks(MEGABYTE_PROFILE * 15_000),
        "at most 1 colour profile in a PNG, got 15000",
    ),
    "20 MB of 0xFF": (
        lambda: b"\xff" * 20_000_000,
        "not a JPEG, PNG, WebP, AVIF or GIF image",
    ),
    "a JPEG of 20 MB of 0xFF": (
        lambda: b"\xff\xd8" + b"\xff" * 20_000_000,
        "the file is damaged or truncated",
    ),
    "a JPEG of 3,000,000 comments": (
        lambda: jpeg_with_segments(jpeg_segment(0xFE, b"xx"), 3_000_000),
        "at most 1000 JPEG segments, got more",
    ),
    "a JPEG of 450,000 EXIF segments": (
        lambda: jpeg_with_segments(jpeg_segment(0xE1, b"Exif\0\0\0"), 450_000),
        "at most 1000 JPEG segments, got more",
    ),
    "a PNG of 1,600,000 chunks": (
        lambda: png_with_chunks(png_chunk(b"abCd") * 1_600_000),
        "at most 50,000 PNG chunks, got more",
    ),
    "a GIF of zeros": (gif_bomb, "its header and metadata take more than 0.5 s to read"),
}
"""Files that took Pillow 1 to 25 seconds on the machine where they were made."""


@pytest.mark.hostile("images")
@pytest.mark.parametrize(
    ("bomb", "sentence"), [pytest.param(*case, id=name) for name, case in BOMBS.items()]
)
def test_a_file_that_takes_long_is_refused_soon(
    decoders: DecodePool, bomb: Callable[[], bytes], sentence: str
) -> None:
    """For its structure where that is quick to check, else for its CPU time."""
    content = bomb()
    decoders.decode(PNG)  # a process is there
    began = time.monotonic()
    with pytest.raises(DecodeError) as caught:
        decoders.decode(content)

    assert str(caught.value) == f"Invalid image: {sentence}"
    assert time.monotonic() - began < 10
    assert decoders.decode(PNG).size == (64, 48)


@pytest.mark.hostile("images")
def test_pixels_that_take_long_are_refused_too() -> None:
    """The signal is the one by which the system's timer kills the process."""
    before = decoder_ids()
    decoder = DecoderProcess()
    size = decoder.open(PNG, None, 30)
    os.kill((decoder_ids() - before).pop(), signal.SIGPROF)
    with pytest.raises(DecodeError) as caught:
        decoder.decode_pixels(size, 30)
    decoder.kill()

    assert str(caught.value) == "Invalid image: its pixels take more than 0.5 s to decode"


def test_a_large_image_may_take_longer_than_a_small_one() -> None:
    """1.5 s of CPU time was measured for 40 megapixels."""
    assert pixel_cpu_seconds(64, 48) < 1
    assert pixel_cpu_seconds(8000, 5000) > 10


@pytest.mark.hostile("kills")
def test_a_decoder_that_crashes_affects_no_other_image(decoders: DecodePool) -> None:
    """The caller reads one sentence, and the next image is decoded."""
    before = decoder_ids()
    with ThreadPoolExecutor() as pool:
        dying = pool.submit(decoders.decode, gif_bomb(), seconds=30)
        os.kill(stopped(before).pop(), signal.SIGKILL)
        with pytest.raises(DecodeError) as caught:
            dying.result()

    assert str(caught.value) == "Invalid image: its decoder crashed"
    assert decoders.decode(PNG).size == (64, 48)


def test_an_unwritable_temporary_directory_harms_no_image(
    decoders: DecodePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoding writes no temporary file."""
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")

    assert decoders.decode(PNG).size == (64, 48)


def test_a_full_disk_harms_no_image(decoders: DecodePool) -> None:
    """Neither an image nor a refusal with its logged cause is written to the disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with pytest.raises(DecodeError) as caught:
            decoders.decode(b"no image")
        assert decoders.decode(PNG).size == (64, 48)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert str(caught.value).startswith("Invalid image: not a JPEG")
    assert "not a JPEG" in str(caught.value.__cause__)


@pytest.mark.hostile("kills")
def test_a_process_that_dies_idle_costs_no_image(decoders: DecodePool) -> None:
    """The system may have killed it to free memory; the next image gets a new process."""
    before = decoder_ids()
    decoders.decode(PNG)
    for process in decoder_ids() - before:
        psutil.Process(process).kill()
        os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)

    assert decoders.decode(PNG).size == (64, 48)


def test_a_decoder_that_does_not_start_is_one_sentence(
    decoders: DecodePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its messages go to the log only."""
    monkeypatch.setenv("PYTHONHOME", "/nowhere")  # no interpreter starts with that

    with pytest.raises(DecodeError) as caught:
        decoders.decode(PNG)

    assert str(caught.value) == "Invalid image: its decoder crashed"
    assert "encodings" in str(caught.value.__cause__)


DECODES_AND_WAITS = """
import io, sys, time
from PIL import Image
from kontext.images.decode_pool import decode_in_process
buffer = io.BytesIO()
Image.new("RGB", (64, 48)).save(buffer, "PNG")
decode_in_process(buffer.getvalue())
print("done", flush=True)
time.sleep(600)
"""


@pytest.mark.hostile("kills")
def test_the_process_ends_with_its_parent() -> None:
    """Even a parent killed without warning leaves no decoder behind."""
    with subprocess.Popen(
        [sys.executable, "-c", DECODES_AND_WAITS], stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"done\n"
        (decoder,) = psutil.Process(parent.pid).children()
        parent.kill()

    gone, _ = psutil.wait_procs([decoder], timeout=20)
    assert gone
