"""Data URLs that are made to take time or memory; ordinary ones are in `test_fetch`."""

import json
import subprocess
import sys
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kontext.images.data_url import unquote

DECODES = """
import json, resource, sys, time
from kontext.images import data_url
from kontext.errors import FetchError

url = eval(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
began = time.monotonic()
try:
    said = len(data_url.decode(url, 20_000_000))
except FetchError as error:
    said = str(error)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
unit = 1 if sys.platform == "darwin" else 1024
print(json.dumps([said, time.monotonic() - began, (after - before) * unit]))
"""

COSTLY = {
    "percent signs": ("'data:,' + '%' * 20_000_000", 20_000_000),
    "escapes": ("'data:,' + '%00' * 20_000_000", 20_000_000),
    "percent signs in base64": (
        "'data:;base64,' + '%' * 60_000_000",
        "Invalid image data URL: its encoding is malformed",
    ),
    "escaped base64": ("'data:;base64,' + '%41' * 20_000_000", 15_000_000),
    "too many letters": (
        "'data:;base64,' + 'A' * 60_000_000",
        "Invalid image data URL: it holds more than 20 MB",
    ),
}


@pytest.mark.hostile("fetches")
@pytest.mark.parametrize(
    ("url", "expected"), [pytest.param(*case, id=name) for name, case in COSTLY.items()]
)
def test_a_costly_data_url_is_quick_and_small(url: str, expected: int | str) -> None:
    """Percent signs alone once took 20 s and 3.6 GB; now the memory is three times the URL's."""
    command = [sys.executable, "-c", DECODES, url]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    said, seconds, memory = json.loads(ended.stdout)

    assert said == expected
    assert seconds < 10
    assert memory < 300e6


@pytest.mark.hostile("fuzzed inputs")
@given(st.text("%4aFg ").map(str.encode), st.integers(3, 9))
def test_escapes_are_undone_as_the_standard_library_does(text: bytes, block: int) -> None:
    """The result is the same wherever blocks end, and for malformed escapes."""
    assert unquote(text, block) == unquote_to_bytes(text)
