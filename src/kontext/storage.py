"""Bytes -> the deployer's bucket -> a link of 7 days.

Knows S3 and what stores get wrong; nothing of pictures or jobs.
"""

import asyncio
import contextlib
import secrets
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

import boto3
import httpx
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from kontext.bucket import Location
from kontext.errors import BootError, StorageError
from kontext.settings import LONGEST_LINK, Settings
from kontext.stored_file import StoredFile

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_REASONS = {
    "NoSuchBucket": "the bucket does not exist",
    "AccessDenied": "the bucket refused the upload",
    "InvalidAccessKeyId": "the bucket does not know the access key",
    "SignatureDoesNotMatch": "the secret access key is wrong",
}


class Bucket:
    """The deployer's bucket.

    Args:
        client: From `connect`.
        name: Of the bucket.
        prefix: What every key begins with.
        link_seconds: Life of a presigned link, 1..604800.
        public_base_url: A CDN in front of the bucket; replaces presigning.
    """

    def __init__(
        self,
        client: "S3Client",
        name: str,
        prefix: str = "",
        link_seconds: int = LONGEST_LINK,
        public_base_url: str | None = None,
    ) -> None:
        self._client = client
        self._name = name
        self._prefix = prefix
        self._link_seconds = link_seconds
        self._public_base_url = public_base_url

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Connect as the settings say.

        Raises:
            SettingsError: They name no bucket, or one that cannot presign.
            BootError: There are no credentials, or they die before a link does.
        """
        location = Location.from_settings(settings)
        secret = settings.bucket_secret_access_key
        session = open_session(
            settings.bucket_access_key_id, secret.get_secret_value() if secret else None
        )
        if settings.public_base_url is None:
            _refuse_mortal_credentials(session)
        return cls(
            connect(location, session),
            location.name,
            settings.bucket_key_prefix,
            settings.link_seconds,
            settings.public_base_url,
        )

    async def store(self, file: StoredFile) -> str:
        """Upload, and return a presigned link, or a public one with a random key."""
        key = self.key(file)
        try:
            await asyncio.to_thread(self._put, file, key)
        except (ClientError, BotoCoreError) as error:
            raise StorageError(not_stored(error)) from error
        return self.link(key)

    def check(self) -> None:
        """Prove at boot that a result can be written, linked and read by a stranger.

        Raises:
            BootError: It cannot; says which step failed.
        """
        probe = StoredFile("boot-check", "txt", secrets.token_bytes(16), "text/plain", {})
        key = self.key(probe)
        try:
            self._put(probe, key)
        except (ClientError, BotoCoreError) as error:
            raise BootError(f"bucket {self._name} cannot be written: {error}") from error
        try:
            answer = httpx.get(self.link(key), timeout=30, follow_redirects=True)
        except httpx.HTTPError as error:
            raise BootError(f"bucket {self._name}: its link cannot be opened: {error}") from error
        if answer.content != probe.content:
            raise BootError(
                f"bucket {self._name}: its link answers {answer.status_code} in place of the "
                "file; the key needs s3:GetObject, or PUBLIC_BASE_URL another origin"
            )
        # A key that may not delete is no obstacle: the next boot overwrites the probe.
        with contextlib.suppress(ClientError, BotoCoreError):
            self._client.delete_object(Bucket=self._name, Key=key)

    def key(self, file: StoredFile) -> str:
        """Name the object; a link without signature is guarded by 128 random bits alone."""
        name = secrets.token_hex(16) if self._public_base_url else file.name
        return f"{self._prefix}{name}.{file.extension}"

    def signed_upload(self, file: StoredFile, key: str) -> tuple[str, dict[str, str]]:
        """Return a URL to PUT `file` to within 5 minutes, and its headers; dials nobody."""
        url = self._client.generate_presigned_url(
            "put_object", Params={**self._parameters(file, key)}, ExpiresIn=300
        )
        metadata = {f"x-amz-meta-{name}": value for name, value in file.object_metadata.items()}
        return url, {
            "Content-Type": file.content_type,
            "Content-Disposition": file.disposition,
            **metadata,
        }

    def link(self, key: str) -> str:
        """Return the link to hand out; dials nobody."""
        if self._public_base_url:
            return f"{self._public_base_url.rstrip('/')}/{quote(key)}"
        return self._client.generate_presigned_url(
            "get_object",
            Params={"Bucket": self._name, "Key": key},
            ExpiresIn=self._link_seconds,
        )

    def _parameters(self, file: StoredFile, key: str) -> dict[str, Any]:
        return {
            "Bucket": self._name,
            "Key": key,
            "ContentType": file.content_type,
            "ContentDisposition": file.disposition,
            "Metadata": file.object_metadata,
        }

    def _put(self, file: StoredFile, key: str) -> None:
        self._client.put_object(Body=file.content, **self._parameters(file, key))


def open_session(access_key_id: str | None, secret: str | None) -> boto3.session.Session:
    """Return a session; without keys, the usual `AWS_*` chain is asked.

    Raises:
        BootError: There are no credentials.
    """
    session = boto3.session.Session(aws_access_key_id=access_key_id, aws_secret_access_key=secret)
    if session.get_credentials() is None:
        raise BootError("BUCKET_ACCESS_KEY_ID is not set, and the AWS_* chain has no credentials")
    return session


def connect(location: Location, session: boto3.session.Session) -> "S3Client":
    """Return a client that every S3 store understands; thread-safe."""
    return session.client(
        "s3",
        endpoint_url=location.endpoint_url,
        region_name=location.region,
        config=Config(
            signature_version="s3v4",  # the default still presigns with SigV2 in some regions
            s3={"addressing_style": location.style},
            # The newer default sends checksum trailers, which R2, B2 and others refuse.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            connect_timeout=5,
            read_timeout=30,
            retries={"mode": "standard", "total_max_attempts": 4},
            tcp_keepalive=True,
        ),
    )


def not_stored(error: Exception) -> str:
    """Say why an upload failed, in a sentence for the caller."""
    code = error.response["Error"].get("Code", "") if isinstance(error, ClientError) else ""
    reason = _REASONS.get(code, "the bucket did not take it")
    return f"The edited image could not be stored: {reason}"


def _refuse_mortal_credentials(session: boto3.session.Session) -> None:
    credentials = session.get_credentials()
    if credentials and credentials.get_frozen_credentials().token:
        raise BootError(
            "the bucket's credentials are temporary (they carry a session token), so links "
            "would die before their time; use an access key of a user, or PUBLIC_BASE_URL"
        )
