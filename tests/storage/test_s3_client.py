"""Sessions, clients and what their errors mean, on a server that checks signatures and users."""

import logging

import boto3
import pytest
from botocore.exceptions import BotoCoreError, ClientError

from kontext.errors import BootError
from kontext.settings import Settings
from kontext.storage.location import Location
from kontext.storage.s3_client import (
    RetryPolicy,
    connect,
    deployer_session,
    open_session,
    reason,
    uses_temporary_credentials,
)
from tests.support.s3_server import (
    Key,
    StrictServer,
    port,
    silent_server,
    status,
    stub_server,
    unused_port,
)

pytestmark = pytest.mark.usefixtures("clean_environment")

KEY = Key("AKEXAMPLE", "a secret")
ONCE = RetryPolicy(timeout_seconds=0.3, attempts=1)


def session(key: Key) -> boto3.session.Session:
    return open_session(key.access_key_id, key.secret)


def at(endpoint_url: str, bucket: str = "results") -> Location:
    return Location(endpoint_url, bucket, "us-east-1", "path")


def failure_of_upload(
    location: Location, key: Key = KEY, retries: RetryPolicy = ONCE
) -> ClientError | BotoCoreError:
    """Upload a file where that fails, and return why."""
    client = connect(location, session(key), retries)
    try:
        client.put_object(Bucket=location.name, Key="job-1.png", Body=b"pixels")
    except (ClientError, BotoCoreError) as failure:
        return failure
    pytest.fail("the upload succeeded")


# --- Sessions


def test_without_any_credentials_the_missing_setting_is_named() -> None:
    """Neither the settings nor the `AWS_*` chain have any."""
    with pytest.raises(BootError, match=r"^BUCKET_ACCESS_KEY_ID is not set, and the AWS_\* chain"):
        deployer_session(Settings())


def test_the_settings_keys_come_before_the_chains(monkeypatch: pytest.MonkeyPatch) -> None:
    """The chain's key is used where the deployer has set none."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKCHAIN")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "the chain's secret")
    own = Settings.load(bucket_access_key_id="AKOWN", bucket_secret_access_key="my secret")
    found = [deployer_session(each).get_credentials() for each in (own, Settings())]

    assert [(each.access_key, each.secret_key) for each in found if each] == [
        ("AKOWN", "my secret"),
        ("AKCHAIN", "the chain's secret"),
    ]


@pytest.mark.parametrize("token", [None, "a token"])
def test_credentials_with_a_session_token_are_temporary(
    token: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Links that they sign would end with them."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKCHAIN")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "the chain's secret")
    if token:
        monkeypatch.setenv("AWS_SESSION_TOKEN", token)

    assert uses_temporary_credentials(open_session(None, None)) is bool(token)


# --- Clients


def test_a_client_stores_and_reads_back(
    s3_server: StrictServer, bucket_name: str, worker_key: Key
) -> None:
    """With the rights that a worker's key has, and no others."""
    client = connect(at(s3_server.endpoint_url), session(worker_key))
    client.put_object(Bucket=bucket_name, Key="job-1.png", Body=b"pixels")

    assert client.get_object(Bucket=bucket_name, Key="job-1.png")["Body"].read() == b"pixels"
    assert s3_server.keys(bucket_name) == ["job-1.png"]


def test_the_location_decides_where_a_client_connects(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables that boto3 reads were considered when the location was made."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_REGION", "mars-north-1")
    client = connect(Location(None, "results", "eu-west-1", "virtual"), session(KEY))

    assert client.meta.endpoint_url == "https://s3.eu-west-1.amazonaws.com"
    assert client.meta.region_name == "eu-west-1"


@pytest.mark.parametrize("attempts", [1, 2])
def test_a_busy_store_is_asked_as_often_as_the_policy_allows(attempts: int) -> None:
    """`attempts` counts the first one too."""
    with stub_server(status(503)) as (address, requests):
        failure_of_upload(at(address), retries=RetryPolicy(attempts=attempts))

    assert requests == ["PUT /results/job-1.png HTTP/1.1"] * attempts


def test_an_upload_over_http_carries_no_checksum_trailer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """R2, B2 and other stores refuse the trailers that boto3 sends by default."""
    with (
        stub_server(status(200)) as (address, _),
        caplog.at_level(logging.DEBUG, "botocore.endpoint"),
    ):
        client = connect(at(address), session(KEY), ONCE)
        client.put_object(Bucket="results", Key="job-1.png", Body=b"pixels")

    assert "method=PUT" in caplog.text
    assert "x-amz-trailer" not in caplog.text.lower()
    assert "x-amz-checksum" not in caplog.text.lower()


# --- Reasons


def test_a_refused_upload_is_explained(
    s3_server: StrictServer, bucket_name: str, worker_key: Key
) -> None:
    """Each of the answers that a deployer's mistake leads to has its own sentence."""
    place = at(s3_server.endpoint_url, bucket_name)
    reader = s3_server.new_user("s3:GetObject")
    failures = [
        failure_of_upload(at(s3_server.endpoint_url, "no-such-bucket"), worker_key),
        failure_of_upload(place, reader),
        failure_of_upload(place, Key("AKNOBODY", "a secret")),
        failure_of_upload(place, Key(worker_key.access_key_id, "another secret")),
    ]

    assert [reason(failure) for failure in failures] == [
        "the bucket does not exist",
        "the bucket refused the upload",
        "the bucket does not know the access key",
        "the secret access key is wrong",
    ]


@pytest.mark.parametrize(
    ("code", "body", "sentence"),
    [
        pytest.param(
            403,
            b"<Error><Code>RequestTimeTooSkewed</Code></Error>",
            "the worker's clock is wrong",
            id="clock",
        ),
        pytest.param(418, b"", "the bucket answered 418", id="unknown"),
        pytest.param(
            507,
            b"<Error><Code>Full</Code><Message>secret.host is full</Message></Error>",
            "the bucket answered 507",
            id="unknown-with-a-message",
        ),
    ],
)
def test_an_answer_without_a_sentence_is_its_status(code: int, body: bytes, sentence: str) -> None:
    """The store's own message could name hosts and keys, and is not repeated."""
    with stub_server(status(code, body)) as (address, _):
        assert reason(failure_of_upload(at(address))) == sentence


def test_a_store_that_does_not_answer_is_told_from_one_that_is_not_there() -> None:
    """Neither sentence names the host."""
    with silent_server() as listener:
        silent = failure_of_upload(at(f"http://127.0.0.1:{port(listener)}"))
    absent = failure_of_upload(at(f"http://127.0.0.1:{unused_port()}"))

    assert reason(silent) == "the bucket did not answer in time"
    assert reason(absent) == "the bucket could not be reached"


def test_any_other_failure_is_one_plain_sentence() -> None:
    """As of a name that boto3 itself refuses."""
    refused = failure_of_upload(at("http://127.0.0.1:9", "no/bucket"))

    assert reason(refused) == "the bucket did not take it"
