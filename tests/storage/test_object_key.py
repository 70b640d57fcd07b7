"""The keys under which results are stored."""

import re

from hypothesis import given
from hypothesis import strategies as st

from kontext.storage.object_key import object_key, safe_name


def test_a_key_is_made_of_prefix_job_id_and_extension() -> None:
    """The same job gets the same key, so that a second run overwrites the first."""
    assert object_key("job-1", "png", "results/") == "results/job-1.png"


def test_a_public_key_cannot_be_guessed() -> None:
    """It holds 128 random bits and not the job's id."""
    keys = {object_key("job-1", "png", "results/", is_public=True) for _ in range(2)}

    assert len(keys) == 2
    assert all(re.fullmatch(r"results/[0-9a-f]{32}\.png", key) for key in keys)


@given(st.text(st.characters(exclude_categories=())))
def test_any_job_id_gives_a_name_that_is_safe_in_paths_and_headers(job_id: str) -> None:
    """Also an empty one, and one with lone surrogates."""
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,128}", safe_name(job_id))
