"""Bodies that clients submit: what is accepted reaches the worker unchanged."""

import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kontext.local.jobs import InvalidBody, Submission
from kontext.local.store import Store

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)

FIELDS = st.sampled_from(["input", "webhook", "policy", "s3Config", "other"])
NUMBERS = st.floats()  # NaN and infinities among them, as Python writes them


@pytest.mark.hostile("fuzzed inputs")
@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.text(), JSON, max_size=3))
def test_what_a_client_sends_is_what_a_worker_gets(sent: dict[str, Any]) -> None:
    """Any JSON object comes through parsing and the queue's file unchanged."""
    with tempfile.TemporaryDirectory() as directory:
        store = Store(Path(directory) / "queue.sqlite")
        store.add(Submission.parse(json.dumps({"input": sent}).encode()), sync=False)
        job = store.take("a")
        store.close()

    assert job is not None
    assert job.body["input"] == sent


@pytest.mark.hostile("fuzzed inputs")
@settings(max_examples=200, deadline=None)
@given(
    st.binary()
    | st.dictionaries(FIELDS, JSON | st.dictionaries(st.text(), NUMBERS)).map(
        lambda body: json.dumps(body).encode()
    )
)
def test_any_body_is_valid_or_refused(body: bytes) -> None:
    """Any bytes raise InvalidBody or give a submission that can be written as JSON again."""
    with contextlib.suppress(InvalidBody):
        assert json.dumps(Submission.parse(body).input, allow_nan=False).startswith("{")
