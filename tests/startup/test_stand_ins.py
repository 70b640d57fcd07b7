"""Which parts of a worker are stand-ins."""

import pytest

from kontext.errors import BootError
from kontext.settings import Settings
from kontext.startup.stand_ins import should_replace, should_replace_model

MISSING = "BUCKET_NAME is not set"


@pytest.mark.parametrize("production", [True, False])
@pytest.mark.parametrize("present", [True, False])
def test_a_part_that_is_asked_for_by_name_is_a_stand_in(production: bool, present: bool) -> None:
    """Also where its original is there."""
    endpoint = "endpoint-1" if production else None
    settings = Settings.load(stand_in={"bucket"}, runpod_endpoint_id=endpoint)

    assert should_replace("bucket", settings, present, MISSING)


def test_an_original_that_is_there_is_used() -> None:
    """A stand-in is for what is missing."""
    assert not should_replace("bucket", Settings.load(stand_in={"model"}), True, MISSING)


def test_off_runpod_a_missing_part_falls_back_to_a_stand_in() -> None:
    """A laptop needs no bucket."""
    assert should_replace("bucket", Settings.load(), False, MISSING)


def test_in_production_a_missing_part_is_refused_with_what_to_do() -> None:
    """A worker must not store results where no client can read them."""
    settings = Settings.load(runpod_endpoint_id="endpoint-1")

    with pytest.raises(BootError, match=rf"^{MISSING} .*STAND_IN=bucket"):
        should_replace("bucket", settings, False, MISSING)


def test_the_model_is_real_in_production_and_where_a_path_is_given() -> None:
    """Missing weights or a missing GPU are then errors, and no reason for a stand-in."""
    assert not should_replace_model(Settings.load(runpod_endpoint_id="endpoint-1"))
    assert not should_replace_model(Settings.load(model_path="/nowhere"))
    assert should_replace_model(Settings.load(stand_in={"model"}, model_path="/nowhere"))
