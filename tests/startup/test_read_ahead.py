"""Files get into the page cache, as far as there is memory, and no error is raised."""

import mmap
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kontext.settings import Settings
from kontext.startup import page_cache, read_ahead

SIZES = [0, 1, 5 << 20, (2 << 20) + 1]


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Files of four lengths: empty, a byte, whole pages, and a byte more than whole pages."""
    paths = [tmp_path / str(size) for size in SIZES]
    for path, size in zip(paths, SIZES, strict=True):
        path.write_bytes(bytes(size))
    return paths


def test_every_byte_is_read(files: list[Path]) -> None:
    """Blocks do not overlap or leave gaps."""
    assert read_ahead.read(files) == sum(SIZES)


def test_no_more_is_read_than_memory_holds(files: list[Path]) -> None:
    """More would displace what was read before."""
    assert page_cache.read(files, memory=3 << 20) == 3 << 20
    assert page_cache.read(files, memory=0) == 0


def test_a_file_that_cannot_be_read_is_skipped(files: list[Path], tmp_path: Path) -> None:
    """The loader reports it later."""
    assert read_ahead.read([tmp_path / "missing", tmp_path, *files]) >= sum(SIZES)


@pytest.mark.skipif(sys.platform != "linux", reason="asks util-linux what the page cache holds")
def test_a_file_that_was_read_is_in_the_page_cache(tmp_path: Path) -> None:
    """It was dropped from the cache before."""
    path = tmp_path / "weights"
    path.write_bytes(bytes(8 << 20))
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    before = _cached_pages(path)
    read_ahead.read([path])

    assert before < _cached_pages(path) == (8 << 20) // mmap.PAGESIZE


@pytest.mark.parametrize(
    ("settings", "starts"),
    [
        pytest.param({"model_path": "/nowhere"}, True, id="a path is given"),
        pytest.param({"runpod_endpoint_id": "endpoint-1"}, True, id="production"),
        pytest.param({}, False, id="a laptop"),
        pytest.param(
            {"runpod_endpoint_id": "endpoint-1", "stand_in": {"model"}}, False, id="stand-in"
        ),
    ],
)
def test_it_starts_only_where_weights_will_be_loaded(
    settings: dict[str, Any], starts: bool
) -> None:
    """Missing weights are no error here; the boot reports them."""
    thread = read_ahead.start(Settings.load(**settings))

    assert (thread is not None) == starts
    if thread is not None:
        thread.join()


def _cached_pages(path: Path) -> int:
    command = ["fincore", "--noheadings", "--output", "PAGES", str(path)]
    return int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
