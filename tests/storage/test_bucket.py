"""Results in the deployer's bucket, on a server that checks signatures, users and policies."""

import asyncio
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from kontext.errors import BootError, StorageError
from kontext.settings import Settings
from kontext.storage import embedded_bucket
from kontext.storage.bucket import Bucket
from kontext.storage.location import Location
from kontext.storage.result_file import ResultFile
from kontext.storage.s3_client import RetryPolicy, connect, open_session
from tests.support.s3_server import (
    Answer,
    Key,
    StrictServer,
    download,
    dripping_server,
    port,
    self_signed,
    silent_server,
    status,
    stub_server,
    unused_port,
)

pytestmark = pytest.mark.usefixtures("clean_environment")

FILE = ResultFile("job-1", "png", b"pixels", "image/png", {"seed": "7"})


def settings(environment: dict[str, str], **changes: object) -> Settings:
    return Settings.load(**{name.lower(): value for name, value in environment.items()} | changes)


@pytest.fixture
def environment(s3_server: StrictServer, bucket_name: str, worker_key: Key) -> dict[str, str]:
    """The variables of a worker with an empty bucket and sufficient rights."""
    return s3_server.environment(bucket_name, worker_key)


@pytest.fixture
def bucket(environment: dict[str, str]) -> Bucket:
    """The bucket that these variables name."""
    return Bucket.from_settings(settings(environment))


# --- Links


async def test_a_link_opens_without_credentials(bucket: Bucket) -> None:
    """Anyone with the link gets the bytes, with their type, file name and metadata."""
    answer = await download(await bucket.store(FILE))

    assert (answer.status_code, answer.content) == (200, b"pixels")
    assert answer.headers["Content-Type"] == "image/png"
    assert answer.headers["Content-Disposition"] == 'inline; filename="job-1.png"'
    assert answer.headers["x-amz-meta-seed"] == "7"
    assert answer.headers["x-amz-meta-job-id"] == "job-1"


def with_query(link: str, name: str, value: str) -> str:
    return re.sub(rf"(?<=[?&]{name}=)[^&]*", value, link)


@pytest.mark.parametrize("part", ["key", "bucket", "signature", "expiry", "date", "no query"])
async def test_a_tampered_link_is_refused(
    part: str, environment: dict[str, str], s3_server: StrictServer
) -> None:
    """A link with any part changed does not open."""
    other_bucket = s3_server.new_bucket()
    await Bucket.from_settings(settings(environment, bucket_name=other_bucket)).store(FILE)
    await Bucket.from_settings(settings(environment, bucket_key_prefix="others/")).store(FILE)
    link = await Bucket.from_settings(settings(environment)).store(FILE)
    signature = parse_qs(link)["X-Amz-Signature"][0]
    tampered = {
        "key": link.replace("/kontext/", "/others/"),
        "bucket": link.replace(environment["BUCKET_NAME"], other_bucket),
        "signature": link.replace(signature, signature[::-1]),
        "expiry": with_query(link, "X-Amz-Expires", "604799"),
        "date": with_query(link, "X-Amz-Date", "20260101T000000Z"),
        "no query": link.partition("?")[0],
    }[part]

    assert (await download(link)).status_code == 200
    assert (await download(tampered)).status_code == 403


async def test_an_expired_link_is_refused(environment: dict[str, str]) -> None:
    """A link stops working when it expires."""
    link = await Bucket.from_settings(settings(environment, link_seconds=1)).store(FILE)
    await asyncio.sleep(2)

    answer = await download(link)

    assert answer.status_code == 403
    assert b"expired" in answer.content.lower()


async def test_a_link_signed_with_a_wrong_secret_is_refused(
    bucket: Bucket, environment: dict[str, str]
) -> None:
    """Without the secret nobody can make a link, even to an object whose key is known."""
    link = await bucket.store(FILE)
    forger = Bucket.from_settings(settings(environment, bucket_secret_access_key="forged"))

    assert (await download(link)).status_code == 200
    assert (await download(forger.link(bucket.key(FILE)))).status_code == 403


@pytest.mark.parametrize("region", ["us-east-1", "eu-west-1", "ap-southeast-5", "auto", None])
@pytest.mark.parametrize("endpoint_url", [None, "http://127.0.0.1:9000"], ids=["aws", "minio"])
def test_a_link_lives_7_days_by_sigv4(endpoint_url: str | None, region: str | None) -> None:
    """In no region does boto3 use SigV2, whose links expire differently."""
    bucket = Bucket.from_settings(
        Settings.load(
            bucket_endpoint_url=endpoint_url,
            bucket_name="photos",
            bucket_region=region,
            bucket_access_key_id="key",
            bucket_secret_access_key="secret",
        )
    )

    query = parse_qs(urlsplit(bucket.link("key.png")).query)

    assert query["X-Amz-Expires"] == ["604800"]
    assert query["X-Amz-Algorithm"] == ["AWS4-HMAC-SHA256"]
    assert query["X-Amz-Credential"][0].split("/")[2:] == [
        region or "us-east-1",
        "s3",
        "aws4_request",
    ]


@pytest.mark.parametrize(
    ("endpoint_url", "name", "expected"),
    [
        (None, "photos", "https://photos.s3.amazonaws.com/k.png"),
        (
            "https://s3.eu-west-1.amazonaws.com",
            "photos",
            "https://photos.s3.eu-west-1.amazonaws.com/k.png",
        ),
        # AWS's certificate covers no dot in a bucket's name.
        (
            "https://s3.eu-west-1.amazonaws.com",
            "my.photos",
            "https://s3.eu-west-1.amazonaws.com/my.photos/k.png",
        ),
        (
            "https://photos.s3.cn-north-1.amazonaws.com.cn",
            None,
            "https://photos.s3.cn-north-1.amazonaws.com.cn/k.png",
        ),
        (
            "https://photos.nyc3.digitaloceanspaces.com",
            None,
            "https://nyc3.digitaloceanspaces.com/photos/k.png",
        ),
        ("http://127.0.0.1:9000", "photos", "http://127.0.0.1:9000/photos/k.png"),
        (
            "https://project.supabase.co/storage/v1/s3",
            "photos",
            "https://project.supabase.co/storage/v1/s3/photos/k.png",
        ),
        # Signed as any other: by S3 Express's own way a link would die after 5 minutes.
        (
            "https://s3.us-east-1.amazonaws.com",
            "photos--use1-az4--x-s3",
            "https://photos--use1-az4--x-s3.s3express-use1-az4.us-east-1.amazonaws.com/k.png",
        ),
    ],
    ids=["aws", "region", "dotted", "china", "digitalocean", "minio", "path", "express"],
)
def test_a_link_points_to_the_store(
    endpoint_url: str | None, name: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Host and path are the store's, whatever the environment names; no connection is opened."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    location = Location.from_endpoint(endpoint_url, name)
    bucket = Bucket(connect(location, open_session("key", "secret")), location.name)

    assert bucket.link("k.png").partition("?")[0] == expected


# --- Objects


async def test_the_same_job_twice_leaves_one_object(
    bucket: Bucket, bucket_name: str, s3_server: StrictServer
) -> None:
    """A job that Runpod runs again overwrites itself."""
    await bucket.store(FILE)
    await bucket.store(ResultFile("job-1", "png", b"again", "image/png", {}))

    assert s3_server.keys(bucket_name) == ["kontext/job-1.png"]
    assert s3_server.read(bucket_name, "kontext/job-1.png") == b"again"


@pytest.mark.parametrize(
    "job_id",
    [
        "../../etc/passwd",
        "a/b",
        "é漢字🎨",
        "x" * 5000,
        "",
        ".",
        'a"; b',
        "a\r\nX: y",
        "a\x00",
        "\ud800",
    ],
    ids=[
        "traversal",
        "slash",
        "unicode",
        "long",
        "empty",
        "dot",
        "quote",
        "newline",
        "nul",
        "surrogate",
    ],
)
async def test_an_odd_job_id_gives_a_safe_key(job_id: str, bucket: Bucket) -> None:
    """The id is part of no path or header, but the object has its own key and a working link."""
    file = ResultFile(job_id, "png", b"pixels", "image/png", {})
    link = await bucket.store(file)

    answer = await download(link)

    assert answer.content == b"pixels"
    assert re.fullmatch(r"kontext/[0-9a-f]{64}\.png", bucket.key(file))
    assert answer.headers["x-amz-meta-job-id"] == file.name


def test_odd_job_ids_do_not_collide() -> None:
    """Ids that differ in characters that no path can hold get different keys."""
    ids = ["a/b", "a\\b", "a b", "\ud800", "\udfff", "?", "é", "e\u0301"]

    assert len({ResultFile(job_id, "png", b"", "image/png", {}).name for job_id in ids}) == len(ids)


async def test_one_client_serves_many_jobs_at_once(
    bucket: Bucket, bucket_name: str, s3_server: StrictServer
) -> None:
    """The client is shared between threads."""
    ids = [f"job-{number}" for number in range(8)]
    files = [ResultFile(job_id, "png", job_id.encode(), "image/png", {}) for job_id in ids]

    links = await asyncio.gather(*map(bucket.store, files))

    assert [(await download(link)).content for link in links] == [file.content for file in files]
    assert len(s3_server.keys(bucket_name)) == len(ids)


# --- What can go wrong


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"BUCKET_NAME": "no-such-bucket"}, "the bucket does not exist"),
        ({"BUCKET_ACCESS_KEY_ID": "AKNOBODY"}, "the bucket does not know the access key"),
        ({"BUCKET_SECRET_ACCESS_KEY": "wrong"}, "the secret access key is wrong"),
    ],
    ids=["no-bucket", "unknown-key", "wrong-secret"],
)
async def test_a_wrong_setting_is_one_public_sentence(
    wrong: dict[str, str], reason: str, environment: dict[str, str]
) -> None:
    """The caller reads what is wrong, but no name of a bucket, host or key."""
    with pytest.raises(StorageError) as failure:
        await Bucket.from_settings(settings(environment | wrong)).store(FILE)

    assert str(failure.value) == f"The edited image could not be stored: {reason}"


async def test_a_denied_upload_is_one_public_sentence(
    s3_server: StrictServer, bucket_name: str
) -> None:
    """The sentence for a missing right is not that for wrong keys, and names nothing private."""
    reader = s3_server.new_user("s3:GetObject")
    bucket = Bucket.from_settings(settings(s3_server.environment(bucket_name, reader)))

    with pytest.raises(StorageError) as failure:
        await bucket.store(FILE)

    assert str(failure.value) == StorageError.example


def bucket_at(address: str, patience: RetryPolicy) -> Bucket:
    location = Location.from_endpoint(address, "photos")
    return Bucket(connect(location, open_session("key", "secret"), patience), location.name)


async def test_a_server_that_is_down() -> None:
    """After all attempts the caller reads one sentence."""
    with pytest.raises(StorageError, match=r"stored: the bucket could not be reached$"):
        await bucket_at(f"http://127.0.0.1:{unused_port()}", RetryPolicy(attempts=2)).store(FILE)


async def test_a_server_that_is_slow() -> None:
    """The worker gives up on a server that accepts the connection and never answers."""
    with silent_server() as listener:
        slow = bucket_at(f"http://127.0.0.1:{port(listener)}", RetryPolicy(0.1, attempts=2))
        async with asyncio.timeout(30):
            with pytest.raises(StorageError, match=r"stored: the bucket did not answer in time$"):
                await slow.store(FILE)


async def test_a_server_that_is_busy_for_a_moment() -> None:
    """After a 503 the upload is sent again, and the job succeeds."""
    with stub_server(status(503), status(200)) as (address, requests):
        link = await bucket_at(address, RetryPolicy()).store(FILE)

    assert requests == ["PUT /photos/job-1.png HTTP/1.1"] * 2
    assert link.startswith(f"{address}/photos/job-1.png?")


async def test_a_server_that_stays_busy() -> None:
    """After the last 503 the sentence names that status."""
    with (
        stub_server(status(503)) as (address, requests),
        pytest.raises(StorageError, match=r"stored: the bucket answered 503$"),
    ):
        await bucket_at(address, RetryPolicy(attempts=2)).store(FILE)

    assert len(requests) == 2


def bucket_within(seconds: float, address: str) -> Bucket:
    """A bucket whose uploads may take so long, retries included."""
    location = Location.from_endpoint(address, "photos")
    client = connect(location, open_session("key", "secret"))
    return Bucket(client, location.name, upload_timeout_seconds=seconds)


async def test_a_silent_server_holds_a_job_no_longer_than_an_upload_may_take() -> None:
    """The deadline covers all attempts, which together would take two minutes."""
    with silent_server() as listener:
        silent = bucket_within(0.2, f"http://127.0.0.1:{port(listener)}")
        async with asyncio.timeout(10):
            with pytest.raises(StorageError, match=r"the bucket did not take it in 0\.2 seconds$"):
                await silent.store(FILE)


async def test_a_server_that_drips_holds_a_job_no_longer_either() -> None:
    """Each header arrives in time, so that no socket timeout ends the upload."""
    with dripping_server() as address:
        async with asyncio.timeout(10):
            with pytest.raises(StorageError, match=r"the bucket did not take it in 0\.2 seconds$"):
                await bucket_within(0.2, address).store(FILE)


# --- Over TLS


@pytest.fixture
def tls_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """A store over HTTPS that refuses uploads without Content-Length, as checksum trailers are."""
    certificate = self_signed(tmp_path)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate.chain))
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.chain))
    flags = ["--cert", str(certificate.chain), "--key", str(certificate.private_key)]
    with embedded_bucket.serve(tmp_path / "store", *flags) as environment:
        yield environment


def test_an_upload_over_https_has_no_checksum_trailer(tls_store: dict[str, str]) -> None:
    """Such a store takes ours; the boot check proves it, from upload to link."""
    assert tls_store["BUCKET_ENDPOINT_URL"].startswith("https://")

    Bucket.from_settings(settings(tls_store)).check()


def test_the_store_over_https_judges(tls_store: dict[str, str]) -> None:
    """It refuses what boto3 sends by default; otherwise the test above would prove nothing."""
    client = boto3.session.Session().client(
        "s3",
        endpoint_url=tls_store["BUCKET_ENDPOINT_URL"],
        aws_access_key_id=tls_store["BUCKET_ACCESS_KEY_ID"],
        aws_secret_access_key=tls_store["BUCKET_SECRET_ACCESS_KEY"],
        region_name="us-east-1",
        config=Config(signature_version="s3v4"),
    )
    with pytest.raises(ClientError, match="MissingContentLength"):
        client.put_object(Bucket=tls_store["BUCKET_NAME"], Key="key", Body=b"pixels")


async def test_an_untrusted_certificate(
    tls_store: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is uploaded to a host with an untrusted certificate."""
    monkeypatch.delenv("AWS_CA_BUNDLE")
    location = Location.from_endpoint(tls_store["BUCKET_ENDPOINT_URL"], tls_store["BUCKET_NAME"])
    client = connect(location, open_session("key", "secret"), RetryPolicy(attempts=1))

    with pytest.raises(StorageError, match=r"stored: the bucket could not be reached$"):
        await Bucket(client, location.name).store(FILE)


# --- At boot


def test_the_check_leaves_nothing_behind(
    bucket: Bucket, bucket_name: str, s3_server: StrictServer
) -> None:
    """It writes, reads back through a link, and deletes."""
    bucket.check()

    assert s3_server.keys(bucket_name) == []


def test_the_check_passes_with_a_key_that_may_not_delete(
    s3_server: StrictServer, bucket_name: str
) -> None:
    """Two boots without the right to delete leave two probes, each with its own key."""
    key = s3_server.new_user("s3:PutObject", "s3:GetObject")
    bucket = Bucket.from_settings(settings(s3_server.environment(bucket_name, key)))

    bucket.check()
    bucket.check()

    assert len(s3_server.keys(bucket_name)) == 2


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"BUCKET_NAME": "no-such-bucket"}, r"^bucket no-such-bucket cannot be written: .*NoSuch"),
        ({"BUCKET_SECRET_ACCESS_KEY": "wrong"}, "cannot be written: .*SignatureDoesNotMatch"),
    ],
    ids=["no-bucket", "wrong-secret"],
)
def test_the_check_tells_the_deployer_what_is_wrong(
    wrong: dict[str, str], reason: str, environment: dict[str, str]
) -> None:
    """The sentence names the bucket and the store's error."""
    with pytest.raises(BootError, match=reason):
        Bucket.from_settings(settings(environment | wrong)).check()


def test_the_check_reads_without_credentials(s3_server: StrictServer, bucket_name: str) -> None:
    """Links signed by a key that may only write do not open; the boot check finds that."""
    writer = s3_server.new_user("s3:PutObject")
    bucket = Bucket.from_settings(settings(s3_server.environment(bucket_name, writer)))

    with pytest.raises(BootError, match=r"its link answers 403 .* the key needs s3:GetObject"):
        bucket.check()


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({}, "BUCKET_ACCESS_KEY_ID is not set, and the AWS_. chain has no credentials"),
        ({"AWS_ACCESS_KEY_ID": "key"}, "AWS_. settings are wrong: .*AWS_SECRET_ACCESS_KEY"),
        ({"AWS_PROFILE": "nobody"}, "AWS_. settings are wrong: .*nobody"),
        ({"BUCKET_ACCESS_KEY_ID": "key"}, "BUCKET_SECRET_ACCESS_KEY go together"),
        (
            {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "s", "AWS_SESSION_TOKEN": "t"},
            "credentials are temporary .* or PUBLIC_BASE_URL",
        ),
        (
            {
                "BUCKET_ENDPOINT_URL": "http://under_score:9000",
                "BUCKET_ACCESS_KEY_ID": "key",
                "BUCKET_SECRET_ACCESS_KEY": "secret",
            },
            "BUCKET_. or AWS_. settings are wrong: Invalid endpoint",
        ),
        (
            {
                "BUCKET_REGION": "eu west",
                "BUCKET_ACCESS_KEY_ID": "key",
                "BUCKET_SECRET_ACCESS_KEY": "secret",
            },
            "settings are wrong: .*eu west",
        ),
        ({"BUCKET_ENDPOINT_URL": "https://s3api-eu-ro-1.runpod.io"}, "cannot presign"),
    ],
    ids=[
        "no-credentials",
        "half-of-a-chain",
        "unknown-profile",
        "half-of-ours",
        "temporary",
        "host-that-boto3-refuses",
        "region",
        "network-volume",
    ],
)
def test_wrong_settings_are_refused_by_name(
    environment: dict[str, str], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker does not start, and the sentence names the variable."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(BootError, match=reason):
        Bucket.from_settings(Settings.load(bucket_name="photos"))


async def test_the_usual_chain_works(
    s3_server: StrictServer, bucket_name: str, worker_key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without BUCKET_* variables for them, endpoint, region and keys come from AWS_*."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint_url)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", worker_key.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", worker_key.secret)

    link = await Bucket.from_settings(Settings.load(bucket_name=bucket_name)).store(FILE)

    assert (await download(link)).content == b"pixels"


def test_our_keys_are_not_mixed_with_the_chains_token(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session token in the environment does not belong to the BUCKET_* keys."""
    monkeypatch.setenv("AWS_SESSION_TOKEN", "somebody else's")

    Bucket.from_settings(settings(environment)).check()


# --- A CDN in front of the bucket


@pytest.fixture
def cdn(s3_server: StrictServer, bucket_name: str) -> Iterator[str]:
    """The URL of a public server for the bucket's content."""

    def show(request: BaseHTTPRequestHandler) -> None:
        status(200, s3_server.read(bucket_name, request.path.lstrip("/")))(request)

    with stub_server(show) as (address, _):
        yield address


@pytest.mark.parametrize("slash", ["", "/"], ids=["without-slash", "with-slash"])
async def test_public_links_lead_to_the_cdn(
    slash: str, cdn: str, environment: dict[str, str]
) -> None:
    """They begin with the base URL, have no signature, and work."""
    bucket = Bucket.from_settings(settings(environment, public_base_url=cdn + slash))

    link = await bucket.store(FILE)

    assert re.fullmatch(re.escape(cdn) + r"/kontext/[0-9a-f]{32}\.png", link)
    assert (await download(link)).content == b"pixels"


async def test_public_links_cannot_be_guessed(cdn: str, environment: dict[str, str]) -> None:
    """Each upload gets a new random key, even for the same job."""
    bucket = Bucket.from_settings(settings(environment, public_base_url=cdn))

    assert await bucket.store(FILE) != await bucket.store(FILE)


def test_public_links_allow_temporary_credentials(
    cdn: str,
    s3_server: StrictServer,
    bucket_name: str,
    worker_key: Key,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No link depends on temporary credentials then: the boot check passes with a real token."""
    temporary = s3_server.temporary(worker_key)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", temporary.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", temporary.secret)
    monkeypatch.setenv("AWS_SESSION_TOKEN", temporary.token or "")
    environment = {"BUCKET_ENDPOINT_URL": s3_server.endpoint_url, "BUCKET_NAME": bucket_name}

    Bucket.from_settings(settings(environment, public_base_url=cdn)).check()
    with pytest.raises(BootError, match="credentials are temporary"):
        Bucket.from_settings(settings(environment))


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (status(200, b"another bucket's"), "answers 200 in place of the file"),
        (status(404), "answers 404 in place of the file; .* PUBLIC_BASE_URL another origin"),
        (status(302, Location="/"), "cannot be opened: .*redirects"),
    ],
    ids=["another-file", "no-file", "redirect-ring"],
)
def test_the_check_finds_a_wrong_cdn(
    answer: Answer, reason: str, environment: dict[str, str]
) -> None:
    """The boot fails if the base URL does not serve this bucket."""
    with (
        stub_server(answer) as (address, _),
        pytest.raises(BootError, match=reason),
    ):
        Bucket.from_settings(settings(environment, public_base_url=address)).check()


@pytest.mark.parametrize("base", ["http://127.0.0.1:1", "http://a:b", "https://xn--"])
def test_the_check_finds_a_cdn_that_cannot_be(base: str, environment: dict[str, str]) -> None:
    """The boot fails if the base URL cannot be reached."""
    with pytest.raises(BootError, match="its link cannot be opened"):
        Bucket.from_settings(settings(environment, public_base_url=base)).check()
