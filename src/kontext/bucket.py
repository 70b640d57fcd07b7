"""Which bucket: name, region, endpoint and addressing style, from settings or endpoint URL.

Pure: opens no connection. What is done with the bucket is `kontext.storage`'s business.
"""

import os
import re
from dataclasses import dataclass
from typing import Literal, Self
from urllib.parse import urlsplit

from kontext.errors import SettingsError
from kontext.settings import Settings

Style = Literal["path", "virtual"]

_HOSTS = (
    re.compile(r"(?:(?P<bucket>.+)\.)?s3[.-](?P<region>[a-z0-9-]+)\.amazonaws\.com(?:\.cn)?"),
    re.compile(r"(?:(?P<bucket>.+)\.)?s3\.amazonaws\.com"),
    re.compile(r"(?:(?P<bucket>.+)\.)?(?P<region>[a-z]{3}\d)\.digitaloceanspaces\.com"),
)
"""Virtual-host and plain endpoints that Runpod's documents name."""

_NETWORK_VOLUME = re.compile(r"s3api-[a-z0-9-]+\.runpod\.io")


@dataclass(frozen=True, slots=True)
class Location:
    """A bucket's whereabouts.

    Attributes:
        endpoint_url: None for AWS itself.
        name: The bucket.
        region: What SigV4 signs.
        style: Whether the bucket is named in the path or in the host.
    """

    endpoint_url: str | None
    name: str
    region: str
    style: Style

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Combine the settings with what the endpoint URL says.

        Raises:
            SettingsError: No bucket is named, or it is one that cannot presign.
        """
        return cls.of(
            settings.bucket_endpoint_url,
            settings.bucket_name,
            settings.bucket_region,
            settings.bucket_addressing_style,
        )

    @classmethod
    def of(
        cls,
        endpoint_url: str | None,
        name: str | None,
        region: str | None = None,
        style: Literal["auto", "path", "virtual"] = "auto",
    ) -> Self:
        """Combine single facts with what the endpoint URL says.

        Raises:
            SettingsError: No bucket is named, or it is one that cannot presign.
        """
        host = (urlsplit(endpoint_url).hostname or "") if endpoint_url else ""
        if _NETWORK_VOLUME.fullmatch(host):
            raise SettingsError(
                "BUCKET_ENDPOINT_URL names Runpod's network-volume S3, which cannot presign "
                "links; use a bucket of AWS S3, Cloudflare R2 or another S3 store"
            )
        known = next((m.groupdict() for pattern in _HOSTS if (m := pattern.fullmatch(host))), {})
        named = name or known.get("bucket")
        if not named:
            raise SettingsError("BUCKET_NAME is not set, and BUCKET_ENDPOINT_URL names no bucket")
        on_aws = not host or host.endswith((".amazonaws.com", ".amazonaws.com.cn"))
        return cls(
            endpoint_url=None if on_aws else _without(known.get("bucket"), endpoint_url),
            name=named,
            region=region or known.get("region") or _environment_region(),
            style=("virtual" if on_aws else "path") if style == "auto" else style,
        )


def _without(bucket: str | None, endpoint_url: str | None) -> str | None:
    if bucket is None or endpoint_url is None:
        return endpoint_url
    return endpoint_url.replace(f"//{bucket}.", "//", 1)


def _environment_region() -> str:
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
