"""Where a bucket is, from settings, endpoint URL and environment."""

import pytest

from kontext.errors import SettingsError
from kontext.settings import Settings
from kontext.storage.location import Location

pytestmark = pytest.mark.usefixtures("clean_environment")

R2 = "https://0123456789abcdef0123456789abcdef.r2.cloudflarestorage.com"


@pytest.mark.parametrize(
    ("endpoint_url", "name", "expected"),
    [
        pytest.param(
            "https://photos.s3.eu-west-1.amazonaws.com",
            None,
            Location(None, "photos", "eu-west-1", "virtual"),
            id="aws-virtual-host",
        ),
        pytest.param(
            "https://photos.s3.us-west-2.amazonaws.com/",
            "photos",
            Location(None, "photos", "us-west-2", "virtual"),
            id="aws-virtual-host-and-name",
        ),
        pytest.param(
            "https://photos.s3.amazonaws.com",
            None,
            Location(None, "photos", "us-east-1", "virtual"),
            id="aws-virtual-host-without-region",
        ),
        pytest.param(
            "https://my.own.photos.s3.eu-west-1.amazonaws.com",
            None,
            Location(None, "my.own.photos", "eu-west-1", "virtual"),
            id="aws-dotted-bucket",
        ),
        pytest.param(
            "https://photos.s3.dualstack.eu-west-1.amazonaws.com",
            None,
            Location(None, "photos", "eu-west-1", "virtual"),
            id="aws-dualstack",
        ),
        pytest.param(
            "https://s3.eu-west-1.amazonaws.com",
            "photos",
            Location(None, "photos", "eu-west-1", "virtual"),
            id="aws-region",
        ),
        pytest.param(
            "https://s3-us-gov-west-1.amazonaws.com",
            "photos",
            Location(None, "photos", "us-gov-west-1", "virtual"),
            id="aws-old-dash",
        ),
        pytest.param(
            "https://photos.s3.cn-north-1.amazonaws.com.cn",
            None,
            Location(None, "photos", "cn-north-1", "virtual"),
            id="aws-china",
        ),
        pytest.param(
            None, "photos", Location(None, "photos", "us-east-1", "virtual"), id="name-alone"
        ),
        pytest.param(
            "https://bucket.vpce-1a2b.s3.us-east-1.vpce.amazonaws.com",
            "photos",
            Location(
                "https://bucket.vpce-1a2b.s3.us-east-1.vpce.amazonaws.com",
                "photos",
                "us-east-1",
                "path",
            ),
            id="aws-private-link-is-kept",
        ),
        pytest.param(R2, "photos", Location(R2, "photos", "us-east-1", "path"), id="r2"),
        pytest.param(
            "https://photos.nyc3.digitaloceanspaces.com",
            None,
            Location("https://nyc3.digitaloceanspaces.com", "photos", "nyc3", "path"),
            id="digitalocean-virtual-host",
        ),
        pytest.param(
            "https://Photos.NYC3.digitaloceanspaces.com",
            None,
            Location("https://nyc3.digitaloceanspaces.com", "photos", "nyc3", "path"),
            id="digitalocean-in-capitals",
        ),
        pytest.param(
            "https://photos.s3.us-west-004.backblazeb2.com",
            None,
            Location("https://s3.us-west-004.backblazeb2.com", "photos", "us-west-004", "path"),
            id="backblaze-virtual-host",
        ),
        pytest.param(
            "http://127.0.0.1:9000",
            "photos",
            Location("http://127.0.0.1:9000", "photos", "us-east-1", "path"),
            id="minio",
        ),
        pytest.param(
            "http://[::1]:9000",
            "photos",
            Location("http://[::1]:9000", "photos", "us-east-1", "path"),
            id="ipv6",
        ),
        pytest.param(
            "https://project.supabase.co/storage/v1/s3",
            "photos",
            Location("https://project.supabase.co/storage/v1/s3", "photos", "us-east-1", "path"),
            id="endpoint-with-path",
        ),
        pytest.param(
            "https://s3.eu-west-1.amazonaws.com.evil.example",
            "photos",
            Location(
                "https://s3.eu-west-1.amazonaws.com.evil.example", "photos", "us-east-1", "path"
            ),
            id="only-looks-like-aws",
        ),
    ],
)
def test_an_endpoint_url_says_where_the_bucket_is(
    endpoint_url: str | None, name: str | None, expected: Location
) -> None:
    """Bucket, region and style are read from the URL as far as it names them."""
    assert Location.from_endpoint(endpoint_url, name) == expected


def test_what_is_set_wins_over_what_the_url_says() -> None:
    """Name, region and style in the settings have precedence."""
    location = Location.from_endpoint(
        "https://photos.s3.eu-west-1.amazonaws.com", "others", "eu-central-1", "path"
    )

    assert location == Location(None, "others", "eu-central-1", "path")


@pytest.mark.parametrize(
    ("environment", "region"),
    [
        ({}, "us-east-1"),
        ({"AWS_DEFAULT_REGION": "eu-west-1"}, "eu-west-1"),
        ({"AWS_REGION": "eu-west-2", "AWS_DEFAULT_REGION": "eu-west-1"}, "eu-west-2"),
        ({"AWS_REGION": "eu-west-2", "BUCKET_REGION": "auto"}, "auto"),
    ],
    ids=["nothing", "default-region", "region", "ours"],
)
def test_the_region_comes_from_the_usual_variables(
    environment: dict[str, str], region: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`BUCKET_REGION`, then `AWS_REGION`, then `AWS_DEFAULT_REGION`, then us-east-1."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert Location.from_settings(Settings.load(bucket_name="photos")).region == region


def test_the_endpoint_comes_from_the_usual_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """`AWS_ENDPOINT_URL` names a store that is not AWS, so buckets are named in the path."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9000")

    location = Location.from_settings(Settings.load(bucket_name="photos"))

    assert location == Location("http://127.0.0.1:9000", "photos", "us-east-1", "path")


def test_a_callers_bucket_knows_nothing_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The environment's region and endpoint do not apply to a caller's bucket."""
    monkeypatch.setenv("AWS_REGION", "eu-west-2")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9000")

    assert Location.from_endpoint(None, "photos") == Location(
        None, "photos", "us-east-1", "virtual"
    )


@pytest.mark.parametrize(
    "endpoint_url",
    ["https://s3api-eu-ro-1.runpod.io/", "https://volume.s3api-us-ks-2.runpod.io"],
    ids=["plain", "virtual-host"],
)
def test_a_network_volume_is_refused_by_name(endpoint_url: str) -> None:
    """Runpod's network-volume S3 cannot presign, and the sentence says so."""
    with pytest.raises(SettingsError, match="network-volume S3, which cannot presign"):
        Location.from_endpoint(endpoint_url, "volume")


@pytest.mark.parametrize(
    "endpoint_url",
    [
        "minio:9000",
        "s3.eu-west-1.amazonaws.com",
        "//s3.eu-west-1.amazonaws.com",
        "ftp://127.0.0.1",
        "https://",
        "http://127.0.0.1:70000",
        "http://127.0.0.1:0",
        "http://[::1",
        "https://key:secret@127.0.0.1",
        "https://127.0.0.1/?query",
        "https://127.0.0.1/#fragment",
    ],
)
def test_what_is_no_endpoint_is_refused_by_name(endpoint_url: str) -> None:
    """An invalid endpoint is not taken for AWS, and the sentence repeats no secret in it."""
    with pytest.raises(SettingsError, match="BUCKET_ENDPOINT_URL must be an http") as refusal:
        Location.from_endpoint(endpoint_url, "photos")

    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize("endpoint_url", [None, R2, "https://s3.eu-west-1.amazonaws.com"])
def test_a_bucket_without_a_name_is_refused_by_name(endpoint_url: str | None) -> None:
    """A bucket's name is never guessed."""
    with pytest.raises(SettingsError, match="BUCKET_NAME is not set"):
        Location.from_endpoint(endpoint_url, None)
