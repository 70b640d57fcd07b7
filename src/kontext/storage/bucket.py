"""Stores results in the deployer's bucket and returns links to them.

Knows uploads, links and how to check at boot that both work. Does not know images or jobs.
"""

import asyncio
import contextlib
import secrets
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

import httpx
from botocore.exceptions import BotoCoreError, ClientError

from kontext.errors import BootError, SettingsError, StorageError
from kontext.settings import MAX_LINK_SECONDS, UPLOAD_TIMEOUT_SECONDS, Settings
from kontext.storage import s3_client
from kontext.storage.location import Location
from kontext.storage.object_key import object_key
from kontext.storage.result_file import ResultFile
from kontext.threads import DaemonThreads

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

NOT_STORED = "The edited image could not be stored"

MAX_UPLOADS = 32
"""Upload threads at once, including those that still wait for a bucket after their timeout."""


class Bucket:
    """The deployer's bucket.

    Args:
        client: A client of `kontext.storage.s3_client.connect`.
        name: The bucket's name.
        prefix: The beginning of every key.
        link_seconds: The lifetime of a presigned link, 1 to 604,800 seconds.
        public_base_url: The URL of a CDN in front of the bucket, used instead of presigned links.
        upload_timeout_seconds: The time that an upload may take, retries included.
    """

    def __init__(
        self,
        client: "S3Client",
        name: str,
        prefix: str = "",
        link_seconds: int = MAX_LINK_SECONDS,
        public_base_url: str | None = None,
        upload_timeout_seconds: float = UPLOAD_TIMEOUT_SECONDS,
    ) -> None:
        self._client = client
        self._name = name
        self._prefix = prefix
        self._link_seconds = link_seconds
        self._public_base_url = public_base_url
        self._upload_seconds = upload_timeout_seconds
        self._threads = DaemonThreads(MAX_UPLOADS)

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Open the bucket that the settings name.

        Raises:
            SettingsError: The settings name no bucket, or one that cannot presign.
            BootError: There are no credentials, or they would expire before a link does.
        """
        location = Location.from_settings(settings)
        try:
            client = _connect(location, settings)
        except (BotoCoreError, ValueError) as error:
            raise SettingsError(f"the BUCKET_* or AWS_* settings are wrong: {error}") from error
        return cls(
            client,
            location.name,
            settings.bucket_key_prefix,
            settings.link_seconds,
            settings.public_base_url,
            settings.upload_timeout_seconds,
        )

    async def store(self, file: ResultFile) -> str:
        """Upload a file; return a presigned link, or a public one with a random key."""
        key = self.key(file)
        try:
            async with asyncio.timeout(self._upload_seconds):
                await self._threads.run(self._put, file, key)
        except TimeoutError as error:
            raise StorageError(
                f"{NOT_STORED}: the bucket did not take it in {self._upload_seconds:g} seconds"
            ) from error
        except (ClientError, BotoCoreError) as error:
            raise StorageError(f"{NOT_STORED}: {s3_client.reason(error)}") from error
        return self.link(key)

    def check(self) -> None:
        """Check that a file can be stored, and read back through its link without credentials.

        Raises:
            BootError: A step failed; the sentence says which.
        """
        # A key for each boot: workers that boot at once would read each other's probe.
        name = f"boot-check-{secrets.token_hex(8)}"
        probe = ResultFile(name, "txt", secrets.token_bytes(16), "text/plain", {})
        key = self.key(probe)
        try:
            self._put(probe, key)
        except (ClientError, BotoCoreError) as error:
            raise BootError(f"bucket {self._name} cannot be written: {error}") from error
        self._read_back(probe, key)
        # Credentials may lack the right to delete: the lifecycle rule removes the probe too.
        with contextlib.suppress(ClientError, BotoCoreError):
            self._client.delete_object(Bucket=self._name, Key=key)

    def key(self, file: ResultFile) -> str:
        """Return the key to store `file` under, a new one each time if links are public."""
        is_public = bool(self._public_base_url)
        return object_key(file.job_id, file.extension, self._prefix, is_public=is_public)

    def signed_upload(self, file: ResultFile, key: str) -> tuple[str, dict[str, str]]:
        """Return a URL to PUT `file` to within 5 minutes, and the headers; opens no connection."""
        url = self._client.generate_presigned_url(
            "put_object", Params=self._parameters(file, key), ExpiresIn=300
        )
        metadata = {f"x-amz-meta-{name}": value for name, value in file.object_metadata.items()}
        return url, {
            "Content-Type": file.content_type,
            "Content-Disposition": file.disposition,
            **metadata,
        }

    def link(self, key: str) -> str:
        """Return the link to a stored file; opens no connection."""
        if self._public_base_url:
            return f"{self._public_base_url.rstrip('/')}/{quote(key)}"
        return self._client.generate_presigned_url(
            "get_object",
            Params={"Bucket": self._name, "Key": key},
            ExpiresIn=self._link_seconds,
        )

    def _parameters(self, file: ResultFile, key: str) -> dict[str, Any]:
        return {
            "Bucket": self._name,
            "Key": key,
            "ContentType": file.content_type,
            "ContentDisposition": file.disposition,
            "Metadata": file.object_metadata,
        }

    def _put(self, file: ResultFile, key: str) -> None:
        self._client.put_object(Body=file.content, **self._parameters(file, key))

    def _read_back(self, probe: ResultFile, key: str) -> None:
        try:
            answer = httpx.get(self.link(key), timeout=30, follow_redirects=True)
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise BootError(f"bucket {self._name}: its link cannot be opened: {error}") from error
        if answer.content != probe.content:
            raise BootError(
                f"bucket {self._name}: its link answers {answer.status_code} in place of the "
                "file; the key needs s3:GetObject, or PUBLIC_BASE_URL another origin"
            )


def _connect(location: Location, settings: Settings) -> "S3Client":
    session = s3_client.deployer_session(settings)
    if settings.public_base_url is None and s3_client.uses_temporary_credentials(session):
        raise BootError(
            "the bucket's credentials are temporary (they carry a session token), so links "
            "would die before their time; use an access key of a user, or PUBLIC_BASE_URL"
        )
    return s3_client.connect(location, session)
