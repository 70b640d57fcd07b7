"""The bucket that a job's `s3Config` names: a caller's host, so dialled as one.

boto3 signs without dialling; the upload goes through the address policy of input images, so
that `s3Config` cannot reach what `image` cannot.
"""

import asyncio
import socket
import ssl

import httpx
from botocore.exceptions import BotoCoreError
from ssrfguard import Policy, Resolver, SSRFGuardError
from ssrfguard.httpx import AsyncClient

from kontext.address_policy import unknown_as_private
from kontext.contract.s3_config import S3Config
from kontext.errors import InvalidRequest, SettingsError, StorageError
from kontext.settings import UPLOAD_TIMEOUT_SECONDS
from kontext.storage.base import StoredFile
from kontext.storage.bucket import NOT_STORED, Bucket
from kontext.storage.location import Location
from kontext.storage.s3_client import connect, open_session


class CallerBucket:
    """Stores one job's result in its caller's bucket.

    Args:
        config: The job's `s3Config`, not yet validated.
        policy: Which addresses may be dialled.
        resolver: A stand-in for `socket.getaddrinfo`.
        tls: A stand-in for the usual certificate authorities.
        seconds: What an upload may take.

    Raises:
        InvalidRequest: Names the field that is missing or wrong, never its value.
    """

    def __init__(
        self,
        config: object,
        policy: Policy,
        resolver: Resolver | None = None,
        tls: ssl.SSLContext | None = None,
        seconds: float = UPLOAD_TIMEOUT_SECONDS,
    ) -> None:
        self._policy = policy
        self._resolver = unknown_as_private(resolver or socket.getaddrinfo)
        self._tls = tls
        self._seconds = seconds
        try:
            self._bucket = _open(S3Config.parse(config))
        except (SettingsError, BotoCoreError, ValueError):
            raise InvalidRequest(
                "s3Config endpointUrl is not an S3 endpoint that can presign links"
            ) from None

    async def store(self, file: StoredFile) -> str:
        """Upload by a presigned request and return a presigned link."""
        key = self._bucket.key(file)
        try:
            async with asyncio.timeout(self._seconds):
                status = await self._upload(file, key)
        except SSRFGuardError as refused:
            ports = " or ".join(map(str, sorted(self._policy.allowed_ports)))
            raise StorageError(
                f"{NOT_STORED}: s3Config endpointUrl must name a public address, port {ports}"
            ) from refused
        except TimeoutError as error:
            raise StorageError(
                f"{NOT_STORED}: the bucket of s3Config did not take it in {self._seconds:g} seconds"
            ) from error
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            raise StorageError(
                f"{NOT_STORED}: s3Config endpointUrl could not be reached"
            ) from error
        if not httpx.codes.is_success(status):
            raise StorageError(f"{NOT_STORED}: the bucket of s3Config answered {status}")
        return self._bucket.link(key)

    async def _upload(self, file: StoredFile, key: str) -> int:
        """Return the answer's status; its body could be endless, and is never read."""
        url, headers = self._bucket.signed_upload(file, key)
        async with (
            AsyncClient(
                policy=self._policy,
                resolver=self._resolver,
                verify=self._tls or True,
                trust_env=False,
                timeout=None,  # the deadline lies around the whole
            ) as client,
            client.stream("PUT", url, content=file.content, headers=headers) as answer,
        ):
            return answer.status_code


def _open(config: S3Config) -> Bucket:
    location = Location.of(config.endpointUrl, config.bucketName)
    bucket = Bucket(
        connect(location, open_session(config.accessId, config.accessSecret)), location.name
    )
    bucket.link("probe")  # what boto3 refuses to sign must fail before the GPU works, not after
    return bucket
