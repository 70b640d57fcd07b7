"""The fields of `s3Config`."""

import pytest

from kontext.contract.s3_config import S3Config
from kontext.errors import InvalidRequest

COMPLETE = {
    "accessId": "key",
    "accessSecret": "caller/secret+key",
    "bucketName": "photos",
    "endpointUrl": "https://s3.example.com",
}


def test_the_documented_fields_are_read() -> None:
    """Fields that the document does not name are ignored."""
    assert S3Config.parse({**COMPLETE, "region": "eu"}).model_dump() == COMPLETE


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"bucketName": None}, "bucketName"),
        ({"bucketName": "no/path"}, "bucketName"),
        ({"accessId": 7}, "accessId"),
        ({"accessSecret": "line\nbreak"}, "accessSecret"),
        ({"endpointUrl": "", "accessId": ""}, "accessId, endpointUrl"),
    ],
    ids=str,
)
def test_the_sentence_names_the_fields_that_are_missing_or_wrong(
    changes: dict[str, object], fields: str
) -> None:
    """In alphabetical order, and without any value."""
    with pytest.raises(InvalidRequest) as refused:
        S3Config.parse({**COMPLETE, **changes})

    assert str(refused.value) == (
        "s3Config needs accessId, accessSecret, bucketName and endpointUrl as strings; "
        f"missing or wrong: {fields}"
    )


def test_a_config_that_is_no_object_is_refused() -> None:
    """The sentence says so without repeating it."""
    with pytest.raises(InvalidRequest, match=r"missing or wrong: it$"):
        S3Config.parse("caller/secret+key")


def test_credentials_are_not_part_of_the_representation() -> None:
    """A config that is logged by accident reveals no secret."""
    assert COMPLETE["accessSecret"] not in repr(S3Config.parse(COMPLETE))
