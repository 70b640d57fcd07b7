"""Results in the bucket that a job's `s3Config` names, on a host that is not trusted."""

import asyncio
import io
import logging
import re
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ssrfguard import Policy

from kontext.contract.s3_config import S3Config
from kontext.errors import InvalidRequest, StorageError
from kontext.logs import PlainFormatter
from kontext.storage import embedded_bucket
from kontext.storage.bucket import NOT_STORED
from kontext.storage.caller_bucket import CallerBucket
from kontext.storage.result_file import ResultFile
from tests.support.s3_server import (
    Certificate,
    Key,
    StrictServer,
    connections,
    download,
    dripping_server,
    port,
    self_signed,
    silent_server,
    status,
    stub_server,
)

pytestmark = pytest.mark.usefixtures("clean_environment")

FILE = ResultFile("job-1", "png", b"pixels", "image/png", {"seed": "7"})
SECRET = "caller/secret+key"


def config(endpoint_url: str, **changes: object) -> dict[str, object]:
    return {
        "accessId": "caller-key",
        "accessSecret": SECRET,
        "bucketName": "photos",
        "endpointUrl": endpoint_url,
    } | changes


def allowing(url: str) -> Policy:
    """Return a policy that allows loopback on the URL's port only."""
    return Policy(
        allowed_networks=(ip_network("127.0.0.0/8"),),
        allowed_ports=frozenset({urlsplit(url).port or 443}),
    )


class Names:
    """A resolver that returns the same address for every name, and records the names."""

    def __init__(self, address: str) -> None:
        self.asked: list[str] = []
        self._address = address

    def __call__(self, host: str, port: int, *_: object, **__: object) -> list[Any]:
        self.asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (self._address, port))]


async def test_a_callers_bucket_is_honoured(
    s3_server: StrictServer, bucket_name: str, worker_key: Key
) -> None:
    """The result has its type, file name and metadata there, and a link of 7 days."""
    s3_config = config(
        s3_server.endpoint_url,
        accessId=worker_key.access_key_id,
        accessSecret=worker_key.secret,
        bucketName=bucket_name,
    )

    link = await CallerBucket(s3_config, allowing(s3_server.endpoint_url)).store(FILE)

    answer = await download(link)
    assert (answer.status_code, answer.content) == (200, b"pixels")
    assert answer.headers["Content-Type"] == "image/png"
    assert answer.headers["Content-Disposition"] == 'inline; filename="job-1.png"'
    assert answer.headers["x-amz-meta-seed"] == "7"
    assert answer.headers["x-amz-meta-job-id"] == "job-1"
    assert parse_qs(link)["X-Amz-Expires"] == ["604800"]
    assert s3_server.keys(bucket_name) == ["job-1.png"]


@pytest.mark.hostile("s3Config values")
async def test_a_store_that_refuses(
    s3_server: StrictServer, bucket_name: str, worker_key: Key
) -> None:
    """If a real server refuses the secret, the sentence names its status."""
    s3_config = config(
        s3_server.endpoint_url, accessId=worker_key.access_key_id, bucketName=bucket_name
    )

    with pytest.raises(StorageError, match=r"stored: the bucket of s3Config answered 403$"):
        await CallerBucket(s3_config, allowing(s3_server.endpoint_url)).store(FILE)


# --- Addresses


@pytest.mark.hostile("s3Config values")
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433"])
async def test_a_private_endpoint_is_never_connected_to(host: str) -> None:
    """However the address is written, no connection is opened."""
    with silent_server() as listener:
        policy = Policy(allowed_ports=frozenset({port(listener)}))
        caller = CallerBucket(config(f"http://{host}:{port(listener)}"), policy)

        with pytest.raises(StorageError, match="must name a public address"):
            await caller.store(FILE)

        assert connections(listener) == 0


@pytest.mark.hostile("s3Config values")
async def test_a_name_with_a_private_address_is_never_connected_to() -> None:
    """A public name does not help, and the sentence does not reveal its address."""
    with silent_server() as listener:
        policy = Policy(allowed_ports=frozenset({port(listener)}))
        s3_config = config(f"http://store.example.com:{port(listener)}")

        with pytest.raises(StorageError, match="must name a public address") as failure:
            await CallerBucket(s3_config, policy, Names("127.0.0.1")).store(FILE)

        assert connections(listener) == 0
        assert "127.0.0.1" not in str(failure.value)


@pytest.mark.hostile("s3Config values")
async def test_other_ports_are_never_connected_to() -> None:
    """On an allowed network only the policy's ports are allowed, and the sentence names them."""
    with silent_server() as listener:
        policy = Policy(allowed_networks=(ip_network("127.0.0.0/8"),))
        caller = CallerBucket(config(f"http://127.0.0.1:{port(listener)}"), policy)

        with pytest.raises(StorageError, match="public address, port 80 or 443"):
            await caller.store(FILE)

        assert connections(listener) == 0


@pytest.mark.hostile("s3Config values")
@pytest.mark.parametrize("code", [301, 302, 307, 308])
async def test_redirects_are_not_followed(code: int) -> None:
    """The image goes nowhere but to the endpoint, not even to another allowed address."""
    with silent_server() as listener:
        elsewhere = f"http://127.0.0.1:{port(listener)}/photos/job-1.png"
        with stub_server(status(code, Location=elsewhere)) as (address, requests):
            policy = Policy(
                allowed_networks=(ip_network("127.0.0.0/8"),),
                allowed_ports=frozenset({urlsplit(address).port or 0, port(listener)}),
            )
            with pytest.raises(StorageError, match=f"the bucket of s3Config answered {code}$"):
                await CallerBucket(config(address), policy).store(FILE)

        assert len(requests) == 1
        assert connections(listener) == 0


@pytest.mark.hostile("s3Config values")
@pytest.mark.parametrize(
    ("endpoint_url", "bucket", "host"),
    [
        ("https://s3.eu-west-1.amazonaws.com", "photos", "photos.s3.eu-west-1.amazonaws.com"),
        (
            "https://photos.s3.eu-west-1.amazonaws.com",
            "photos",
            "photos.s3.eu-west-1.amazonaws.com",
        ),
        ("https://photos.s3.amazonaws.com", "photos", "photos.s3.amazonaws.com"),
        ("https://s3.us-west-2.amazonaws.com", "my.photos", "s3.us-west-2.amazonaws.com"),
        ("https://photos.nyc3.digitaloceanspaces.com", "photos", "nyc3.digitaloceanspaces.com"),
    ],
    ids=["aws", "aws-virtual-host", "aws-without-region", "aws-dotted", "digitalocean"],
)
async def test_only_the_stores_host_is_asked_for(
    endpoint_url: str, bucket: str, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The upload goes to the store's own host, whatever the deployer's environment says."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_REGION", "eu-north-1")
    names = Names("10.0.0.1")

    with pytest.raises(StorageError, match="must name a public address"):
        await CallerBucket(config(endpoint_url, bucketName=bucket), Policy(), names).store(FILE)

    assert names.asked == [host]


# --- Fields


@pytest.mark.hostile("s3Config values")
@pytest.mark.parametrize(
    ("s3_config", "named"),
    [
        ({}, "accessId, accessSecret, bucketName, endpointUrl"),
        ("a string", "it"),
        ([], "it"),
        (config("https://s3.amazonaws.com", accessSecret=None), "accessSecret"),
        (config("https://s3.amazonaws.com", accessId=""), "accessId"),
        (config("https://s3.amazonaws.com", accessId=123), "accessId"),
        (config("https://s3.amazonaws.com", accessSecret="sécret"), "accessSecret"),
        (config("https://s3.amazonaws.com", accessSecret="secret\n"), "accessSecret"),
        (config("https://s3.amazonaws.com", accessSecret="\ud800"), "accessSecret"),
        (config("https://s3.amazonaws.com", accessSecret="x" * 2000), "accessSecret"),
        (config("https://s3.amazonaws.com", bucketName=".."), "bucketName"),
        (config("https://s3.amazonaws.com", bucketName="photos/../others"), "bucketName"),
        (config("https://s3.amazonaws.com", bucketName="photos?x="), "bucketName"),
        (
            config(
                "https://s3.amazonaws.com",
                bucketName="arn:aws:s3:us-west-2:123456789012:accesspoint/x",
            ),
            "bucketName",
        ),
        (config("https://s3.amazonaws.com", bucketName="x" * 64), "bucketName"),
        (config("https://é.example.com"), "endpointUrl"),
        (config("https://s3.amazonaws.com with spaces"), "endpointUrl"),
    ],
    ids=[
        "all-missing",
        "string",
        "list",
        "null",
        "empty",
        "number",
        "not-ascii",
        "newline",
        "surrogate",
        "too-long",
        "bucket-traversal",
        "bucket-path",
        "bucket-query",
        "bucket-arn",
        "bucket-too-long",
        "endpoint-not-ascii",
        "endpoint-spaces",
    ],
)
def test_a_wrong_field_is_named(s3_config: object, named: str) -> None:
    """The sentence names the fields and repeats no value."""
    with pytest.raises(InvalidRequest) as refusal:
        CallerBucket(s3_config, Policy())

    assert str(refusal.value) == (
        "s3Config needs accessId, accessSecret, bucketName and endpointUrl as strings; "
        f"missing or wrong: {named}"
    )


@pytest.mark.hostile("s3Config values")
@pytest.mark.parametrize(
    "endpoint_url",
    [
        "s3.eu-west-1.amazonaws.com",
        "ftp://store.example.com",
        "file:///etc/passwd",
        "https://",
        "https://key:secret@store.example.com",
        "https://under_score.example.com",
        "https://store.example.com:70000",
        "https://store.example.com/?a=b",
        "http://[::1",
        "https://s3api-eu-ro-1.runpod.io",
    ],
)
def test_what_is_no_endpoint_is_refused_before_the_gpu_works(endpoint_url: str) -> None:
    """The job is refused at its beginning; the sentence does not repeat the URL."""
    with pytest.raises(InvalidRequest) as refusal:
        CallerBucket(config(endpoint_url), Policy())

    assert str(refusal.value) == "s3Config endpointUrl is not an S3 endpoint that can presign links"


@pytest.mark.hostile("s3Config values")
def test_what_boto3_does_not_sign_is_refused_before_the_gpu_works() -> None:
    """A name that is invalid only on AWS is refused before the edit."""
    with pytest.raises(InvalidRequest, match="not an S3 endpoint that can presign"):
        CallerBucket(config("https://s3.amazonaws.com", bucketName="photos--x-s3"), Policy())


JSON_VALUES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text())
)
PRINTABLE = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1)


@pytest.mark.hostile("fuzzed inputs")
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    JSON_VALUES
    | st.dictionaries(st.sampled_from(list(S3Config.model_fields)), JSON_VALUES)
    | st.fixed_dictionaries(
        {
            "accessId": PRINTABLE,
            "accessSecret": PRINTABLE,
            "bucketName": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{2,20}", fullmatch=True),
            "endpointUrl": PRINTABLE.map("https://{}".format) | PRINTABLE,
        }
    )
)
def test_whatever_a_config_holds(s3_config: object) -> None:
    """The caller reads one sentence, before the edit or when the result would be stored."""
    assert re.fullmatch(rf"({NOT_STORED}: )?s3Config [ -~]+", sentence(s3_config))


def sentence(s3_config: object) -> str:
    """Return what the caller reads if no connection is allowed."""
    try:
        caller = CallerBucket(s3_config, Policy(allowed_schemes=frozenset({"none"})))
        return asyncio.run(caller.store(FILE))
    except (InvalidRequest, StorageError) as refusal:
        return str(refusal)


@pytest.mark.hostile("s3Config values")
def test_an_unknown_field_is_ignored() -> None:
    """Unknown fields of `input` are ignored too."""
    CallerBucket(config("https://s3.amazonaws.com", region="eu-west-1"), Policy())


# --- Stores that misbehave


@pytest.mark.hostile("s3Config values")
@pytest.mark.parametrize("code", [400, 403, 404, 500, 503])
async def test_a_stores_refusal_is_its_status(code: int) -> None:
    """The caller does not read the response's content."""
    with stub_server(status(code, b"<Error>internal-host-7</Error>")) as (address, _):
        with pytest.raises(StorageError) as failure:
            await CallerBucket(config(address), allowing(address)).store(FILE)

        expected = f"The edited image could not be stored: the bucket of s3Config answered {code}"
        assert str(failure.value) == expected


@pytest.mark.hostile("s3Config values")
async def test_a_store_that_is_down() -> None:
    """The caller reads one sentence."""
    with silent_server() as listener:
        address = f"http://127.0.0.1:{port(listener)}"

    with pytest.raises(StorageError, match=r"stored: s3Config endpointUrl could not be reached$"):
        await CallerBucket(config(address), allowing(address)).store(FILE)


@pytest.mark.hostile("s3Config values")
async def test_a_store_that_is_slow() -> None:
    """The deadline ends an upload that the store never answers."""
    with silent_server() as listener:
        address = f"http://127.0.0.1:{port(listener)}"
        caller = CallerBucket(config(address), allowing(address), seconds=1)
        async with asyncio.timeout(30):
            with pytest.raises(StorageError, match=r"s3Config did not take it in 1 seconds$"):
                await caller.store(FILE)

        assert connections(listener) == 1


@pytest.mark.hostile("s3Config values")
async def test_a_store_that_drips() -> None:
    """The deadline ends a response that sends headers forever."""
    with dripping_server() as address:
        caller = CallerBucket(config(address), allowing(address), seconds=0.3)
        async with asyncio.timeout(30):
            with pytest.raises(StorageError, match=r"s3Config did not take it in 0\.3 seconds$"):
                await caller.store(FILE)


@pytest.mark.hostile("s3Config values")
async def test_a_store_that_never_ends_its_answer() -> None:
    """Only the response's head is read, so that an endless body does no harm."""

    def endless(request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        try:
            while True:
                request.wfile.write(bytes(65536))
        except OSError:
            request.close_connection = True

    with stub_server(endless) as (address, _):
        caller = CallerBucket(config(address), allowing(address), seconds=5)

        assert (await caller.store(FILE)).startswith(f"{address}/photos/job-1.png?")


# --- Over TLS


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    """A self-signed certificate for store.example.com."""
    return self_signed(tmp_path)


@pytest.fixture
def tls_store(tmp_path: Path, certificate: Certificate) -> Iterator[dict[str, Any]]:
    """The `s3Config` of a store over HTTPS at store.example.com, which is on loopback."""
    flags = ["--cert", str(certificate.chain), "--key", str(certificate.private_key)]
    with embedded_bucket.serve(tmp_path / "store", *flags) as environment:
        tls_port = urlsplit(environment["BUCKET_ENDPOINT_URL"]).port
        yield {
            "accessId": environment["BUCKET_ACCESS_KEY_ID"],
            "accessSecret": environment["BUCKET_SECRET_ACCESS_KEY"],
            "bucketName": environment["BUCKET_NAME"],
            "endpointUrl": f"https://store.example.com:{tls_port}",
        }


async def test_a_store_over_https(
    tls_store: dict[str, Any], certificate: Certificate, tmp_path: Path
) -> None:
    """The connection goes to the pinned address, and the certificate is checked by name."""
    url = tls_store["endpointUrl"]
    caller = CallerBucket(tls_store, allowing(url), Names("127.0.0.1"), certificate.trust)

    link = await caller.store(FILE)

    assert link.startswith(f"{url}/kontext/job-1.png?")
    assert (tmp_path / "store/kontext/job-1.png").read_bytes() == b"pixels"


@pytest.mark.hostile("s3Config values")
async def test_a_store_with_an_untrusted_certificate(tls_store: dict[str, Any]) -> None:
    """The image is not sent to a host with an untrusted certificate."""
    caller = CallerBucket(tls_store, allowing(tls_store["endpointUrl"]), Names("127.0.0.1"))

    with pytest.raises(StorageError, match="endpointUrl could not be reached"):
        await caller.store(FILE)


@pytest.mark.hostile("s3Config values")
async def test_a_store_with_anothers_certificate(
    tls_store: dict[str, Any], certificate: Certificate
) -> None:
    """The image is not sent to a host whose certificate has another name."""
    url = tls_store["endpointUrl"].replace("store.", "another.")
    s3_config = {**tls_store, "endpointUrl": url}
    caller = CallerBucket(s3_config, allowing(url), Names("127.0.0.1"), certificate.trust)

    with pytest.raises(StorageError, match="endpointUrl could not be reached"):
        await caller.store(FILE)


# --- Secrets


def test_a_config_hides_its_secret() -> None:
    """Printed or logged, it shows only the bucket's name."""
    shown = repr(S3Config.model_validate(config("https://s3.amazonaws.com")))

    assert shown == "S3Config(bucketName='photos')"


@pytest.mark.hostile("s3Config values")
@pytest.mark.parametrize("case", ["refused", "down", "private", "port"])
async def test_no_secret_reaches_the_log(case: str) -> None:
    """Neither secret, nor key, nor signature is in a failure's sentence or its logged cause."""
    with stub_server(status(403)) as (address, _):
        endpoint_url, policy = {
            "refused": (address, allowing(address)),
            "down": ("http://127.0.0.1:1", allowing("http://127.0.0.1:1")),
            "private": ("http://127.0.0.1", Policy()),
            "port": ("http://127.0.0.1:1", Policy()),
        }[case]
        with pytest.raises(StorageError) as failure:
            await CallerBucket(config(endpoint_url), policy).store(FILE)

    logged = written(failure.value)
    assert "could not be stored" in logged
    for secret in (SECRET, "caller%2Fsecret", "caller-key", "X-Amz-Signature"):
        assert secret not in logged


def written(error: Exception) -> str:
    """Return what the worker logs about a failed job."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(PlainFormatter())
    record = logging.LogRecord(
        "kontext", logging.WARNING, "", 0, "failed: %s", (error,), exc_info=None
    )
    if cause := error.__cause__:
        record.exc_info = (type(cause), cause, cause.__traceback__)
    handler.emit(record)
    return stream.getvalue()
