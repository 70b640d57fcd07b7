"""Checks of a file's structure; what each limit refuses is tested with `decode`."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kontext.errors import DecodeError
from kontext.images.file_structure import check
from tests.support.images import encoded, plain

JPEG, PNG = encoded(plain(), "JPEG"), encoded(plain(), "PNG")


@pytest.mark.parametrize("content", [JPEG, PNG, encoded(plain(), "WEBP"), b"", b"no image"])
def test_ordinary_and_other_files_pass(content: bytes) -> None:
    """Whether a file is an image at all is decided later."""
    check(content)


@given(
    content=st.sampled_from([JPEG, PNG]),
    end=st.integers(0, 2000),
    position=st.integers(3, 2000),
    noise=st.binary(max_size=20),
)
def test_a_damaged_file_passes_or_is_refused(
    content: bytes, end: int, position: int, noise: bytes
) -> None:
    """Whatever its segments and chunks claim, no other error is raised."""
    damaged = content[:position] + noise + content[position:][:end]
    with suppress(DecodeError):
        check(damaged)
