"""Finds out a bucket's name, region, endpoint and addressing style from settings or endpoint URL.

Pure: opens no connection. Does not know what is stored in the bucket.
"""

import os
import re
from dataclasses import dataclass
from typing import Literal, Self
from urllib.parse import SplitResult, urlsplit

from kontext.errors import SettingsError
from kontext.settings import Settings

Style = Literal["path", "virtual"]

_AWS = re.compile(
    r"(?:(?P<bucket>.+)\.)?s3(?:[.-](?:dualstack\.)?(?P<region>[a-z]{2}(?:-[a-z]+)+-\d+))?"
    r"\.amazonaws\.com(?:\.cn)?"
)
_OTHERS = (
    re.compile(r"(?:(?P<bucket>.+)\.)?(?P<region>[a-z]{3}\d)\.digitaloceanspaces\.com"),
    re.compile(
        r"(?:(?P<bucket>.+)\.)?s3\.(?P<region>[a-z0-9-]+)\.(?:backblazeb2\.com|wasabisys\.com)"
    ),
)
"""Stores whose endpoints name the region and perhaps the bucket, as Runpod's SDK accepts them."""

_NETWORK_VOLUME = re.compile(r"(?:.+\.)?s3api-[a-z0-9-]+\.runpod\.io")

_DEFAULT_REGION = "us-east-1"


@dataclass(frozen=True, slots=True)
class Location:
    """Where a bucket is.

    Attributes:
        endpoint_url: The store's URL; None for AWS.
        name: The bucket's name.
        region: The region that signatures name.
        style: Whether URLs name the bucket in their path or in their host.
    """

    endpoint_url: str | None
    name: str
    region: str
    style: Style

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Combine the settings, the endpoint URL and the usual `AWS_*` variables.

        Raises:
            SettingsError: No bucket is named, or the store cannot presign.
        """
        return cls.from_endpoint(
            settings.bucket_endpoint_url or _first_set("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
            settings.bucket_name,
            settings.bucket_region,
            settings.bucket_addressing_style,
            _first_set("AWS_REGION", "AWS_DEFAULT_REGION") or _DEFAULT_REGION,
        )

    @classmethod
    def from_endpoint(
        cls,
        endpoint_url: str | None,
        name: str | None,
        region: str | None = None,
        style: Literal["auto", "path", "virtual"] = "auto",
        fallback_region: str = _DEFAULT_REGION,
    ) -> Self:
        """Read the endpoint URL; a bucket name, region or style that is given has precedence.

        Raises:
            SettingsError: No bucket is named, or the store cannot presign.
        """
        parts = _split(endpoint_url) if endpoint_url else SplitResult("", "", "", "", "")
        host = parts.hostname or ""
        on_aws = not host or _AWS.fullmatch(host) is not None
        known = next(
            (m.groupdict() for form in (_AWS, *_OTHERS) if (m := form.fullmatch(host))), {}
        )
        bucket = known.get("bucket")
        named = name or bucket
        if not named:
            raise SettingsError("BUCKET_NAME is not set, and BUCKET_ENDPOINT_URL names no bucket")
        plain = parts._replace(netloc=parts.netloc.lower().removeprefix(f"{bucket}."))
        return cls(
            endpoint_url=None if on_aws else plain.geturl(),
            name=named,
            region=region or known.get("region") or fallback_region,
            style=("virtual" if on_aws else "path") if style == "auto" else style,
        )


def _split(endpoint_url: str) -> SplitResult:
    try:
        parts = urlsplit(endpoint_url)
        # Reading the port checks it. Credentials in the URL would travel in every link.
        valid = parts.port != 0 and parts.hostname and parts.username is None
    except ValueError:
        valid = False
    if not valid or parts.scheme not in {"http", "https"} or parts.query or parts.fragment:
        raise SettingsError(
            "BUCKET_ENDPOINT_URL must be an http(s) URL such as https://s3.eu-west-1.amazonaws.com"
        )
    if _NETWORK_VOLUME.fullmatch(parts.hostname or ""):
        raise SettingsError(
            "BUCKET_ENDPOINT_URL names Runpod's network-volume S3, which cannot presign "
            "links; use a bucket of AWS S3, Cloudflare R2 or another S3 store"
        )
    return parts


def _first_set(*names: str) -> str | None:
    return next((value for name in names if (value := os.environ.get(name))), None)
