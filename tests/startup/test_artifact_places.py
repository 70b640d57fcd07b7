"""Where artifacts are stored; `tests/inference/test_compile_cache.py` tests the bucket."""

import os
from pathlib import Path

from kontext.settings import Settings
from kontext.startup.artifact_places import Directory, open_place


def test_a_directory_is_created_by_the_first_write(tmp_path: Path) -> None:
    """Reading before that finds nothing."""
    directory = Directory(tmp_path / "new" / "compiled")
    assert directory.read("name", 10) is None
    directory.write("name", b"first")

    assert directory.read("name", 10) == b"first"
    assert directory.read("name", 3) == b"fir"


def test_a_write_replaces_the_file_and_leaves_no_other(tmp_path: Path) -> None:
    """The temporary file has become the file."""
    directory = Directory(tmp_path)
    for content in (b"first", b"second"):
        directory.write("name", content)

    assert directory.read("name", 10) == b"second"
    assert [path.name for path in tmp_path.iterdir()] == ["name"]


def test_a_pipe_is_not_read(tmp_path: Path) -> None:
    """Reading it would block until someone writes."""
    os.mkfifo(tmp_path / "name")

    assert Directory(tmp_path).read("name", 10) is None


def test_a_path_is_a_directory(tmp_path: Path) -> None:
    """Only `bucket:` names the bucket."""
    place = open_place(str(tmp_path), Settings.load())
    place.write("name", b"content")

    assert (tmp_path / "name").read_bytes() == b"content"
