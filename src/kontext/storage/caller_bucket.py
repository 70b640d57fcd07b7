"""Stores a job's result in the bucket that its `s3Config` names.

Knows how to upload to a host that a caller chose: boto3 only signs, and the upload obeys the same
address policy as input images, so that `s3Config` cannot reach what `image` cannot. Does not know
images or jobs.
"""

import asyncio
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from botocore.exceptions import BotoCoreError
from ssrfguard import Policy, Resolver, SSRFGuardError
from ssrfguard.httpx import AsyncClient

from kontext.address_policy import refuse_unknown_names
from kontext.contract.s3_config import S3Config
from kontext.errors import InvalidRequest, SettingsError, StorageError
from kontext.settings import UPLOAD_TIMEOUT_SECONDS
from kontext.storage.bucket import NOT_STORED, Bucket
from kontext.storage.location import Location
from kontext.storage.result_file import ResultFile
from kontext.storage.s3_client import connect, open_session


class CallerBucket:
    """Stores one job's result in its caller's bucket.

    Args:
        config: The job's `s3Config`, not yet validated.
        policy: The addresses that the upload may connect to.
        resolver: A replacement for `socket.getaddrinfo`.
        tls: A replacement for the usual certificate authorities.
        seconds: The time that an upload may take.

    Raises:
        InvalidRequest: A field is missing or wrong; the sentence names it, never its value.
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
        self._resolver = refuse_unknown_names(resolver or socket.getaddrinfo)
        self._tls = tls
        self._seconds = seconds
        try:
            self._bucket = _open(S3Config.parse(config))
        except (SettingsError, BotoCoreError, ValueError):
            raise InvalidRequest(
                "s3Config endpointUrl is not an S3 endpoint that can presign links"
            ) from None

    async def store(self, file: ResultFile) -> str:
        """Upload a file by a presigned request and return a presigned link."""
        key = self._bucket.key(file)
        with self._storage_errors():
            async with asyncio.timeout(self._seconds):
                status = await self._upload(file, key)
        if not httpx.codes.is_success(status):
            raise StorageError(f"{NOT_STORED}: the bucket of s3Config answered {status}")
        return self._bucket.link(key)

    @contextmanager
    def _storage_errors(self) -> Iterator[None]:
        """Raise what went wrong with an upload as a sentence that reveals no address."""
        try:
            yield
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

    async def _upload(self, file: ResultFile, key: str) -> int:
        """Upload the file and return the status; the body, which may be endless, is not read."""
        url, headers = self._bucket.signed_upload(file, key)
        async with (
            AsyncClient(
                policy=self._policy,
                resolver=self._resolver,
                verify=self._tls or True,
                trust_env=False,
                timeout=None,  # `store` limits the whole upload
            ) as client,
            client.stream("PUT", url, content=file.content, headers=headers) as answer,
        ):
            return answer.status_code


def _open(config: S3Config) -> Bucket:
    location = Location.from_endpoint(config.endpointUrl, config.bucketName)
    bucket = Bucket(
        connect(location, open_session(config.accessId, config.accessSecret)), location.name
    )
    bucket.link("probe")  # what boto3 refuses to sign must fail before the GPU has worked
    return bucket
