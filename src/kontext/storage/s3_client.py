"""Connects boto3 to any S3 store, with timeouts and retries, and explains its errors.

Knows credentials and the options that all stores understand. Does not know files, keys or links.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,  # noqa: A004 - botocore's name
    HTTPClientError,
    ReadTimeoutError,
)

from kontext.errors import BootError
from kontext.settings import Settings
from kontext.storage.location import Location

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_REASONS = {
    "NoSuchBucket": "the bucket does not exist",
    "AccessDenied": "the bucket refused the upload",
    "InvalidAccessKeyId": "the bucket does not know the access key",
    "SignatureDoesNotMatch": "the secret access key is wrong",
    "RequestTimeTooSkewed": "the worker's clock is wrong",
}


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a request is sent to a store, and how long each attempt waits for its answer."""

    timeout_seconds: float = 30
    attempts: int = 4


def open_session(access_key_id: str | None, secret: str | None) -> boto3.session.Session:
    """Open a session with the given keys, or with those that boto3 finds itself (`AWS_*`).

    Raises:
        BootError: There are no credentials.
    """
    session = boto3.session.Session(aws_access_key_id=access_key_id, aws_secret_access_key=secret)
    if session.get_credentials() is None:
        raise BootError("BUCKET_ACCESS_KEY_ID is not set, and the AWS_* chain has no credentials")
    return session


def deployer_session(settings: Settings) -> boto3.session.Session:
    """Open a session with the credentials of the deployer's bucket.

    Raises:
        BootError: There are no credentials.
    """
    secret = settings.bucket_secret_access_key
    return open_session(
        settings.bucket_access_key_id, secret.get_secret_value() if secret else None
    )


def uses_temporary_credentials(session: boto3.session.Session) -> bool:
    """Tell whether the credentials have a session token, and so expire."""
    credentials = session.get_credentials()
    return bool(credentials and credentials.get_frozen_credentials().token)


def connect(
    location: Location, session: boto3.session.Session, retries: RetryPolicy = RetryPolicy()
) -> "S3Client":
    """Return a client whose requests every S3 store understands. Thread-safe."""
    return session.client(
        "s3",
        endpoint_url=location.endpoint_url,
        region_name=location.region,
        config=Config(**_options(location, retries)),
    )


def _options(location: Location, retries: RetryPolicy) -> dict[str, Any]:
    return {
        "signature_version": "s3v4",  # the default still presigns with SigV2 in some regions
        "s3": {"addressing_style": location.style},
        "ignore_configured_endpoint_urls": True,  # `Location` has read them
        # The newer default sends checksum trailers, which R2, B2 and others refuse.
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
        "connect_timeout": 5,
        "read_timeout": retries.timeout_seconds,
        "retries": {"mode": "standard", "total_max_attempts": retries.attempts},
        "tcp_keepalive": True,
    }


def reason(error: ClientError | BotoCoreError) -> str:
    """Say why an upload failed, without naming bucket, host or key."""
    match error:
        case ClientError():
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            return _REASONS.get(error.response["Error"]["Code"], f"the bucket answered {status}")
        case ReadTimeoutError():
            return "the bucket did not answer in time"
        case ConnectionError() | HTTPClientError():
            return "the bucket could not be reached"
        case _:
            return "the bucket did not take it"
