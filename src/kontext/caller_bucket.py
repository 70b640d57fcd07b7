"""The bucket that a job's `s3Config` names: a caller's host, so dialled as one.

boto3 signs without dialling; the upload goes through the address policy of input pictures, so
that `s3Config` cannot reach what `image` cannot.
"""

import asyncio
from typing import Annotated

import httpx
from pydantic import BaseModel, ConfigDict, Field, StrictStr, ValidationError
from ssrfguard import Policy, Resolver, SSRFGuardError
from ssrfguard.httpx import AsyncClient

from kontext.bucket import Location
from kontext.errors import InvalidRequest, SettingsError, StorageError
from kontext.storage import Bucket, connect, open_session
from kontext.stored_file import StoredFile

UPLOAD_SECONDS = 60

NotEmpty = Annotated[StrictStr, Field(min_length=1, max_length=1024)]


class S3Config(BaseModel):
    """The documented sibling of `input`."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    accessId: NotEmpty  # noqa: N815 - Runpod's name
    accessSecret: NotEmpty = Field(repr=False)  # noqa: N815 - Runpod's name
    bucketName: NotEmpty  # noqa: N815 - Runpod's name
    endpointUrl: NotEmpty  # noqa: N815 - Runpod's name


class CallerBucket:
    """Stores one job's result in its caller's bucket.

    Args:
        config: The job's `s3Config`, not yet validated.
        policy: Which addresses may be dialled.
        resolver: A stand-in for `socket.getaddrinfo`.

    Raises:
        InvalidRequest: Names the field that is missing or wrong, never its value.
    """

    def __init__(self, config: object, policy: Policy, resolver: Resolver | None = None) -> None:
        self._policy = policy
        self._resolver = resolver
        try:
            given = S3Config.model_validate(config)
            location = Location.of(given.endpointUrl, given.bucketName)
            client = connect(location, open_session(given.accessId, given.accessSecret))
        except ValidationError as error:
            fields = {str(e["loc"][0]) if e["loc"] else "it" for e in error.errors()}
            raise InvalidRequest(
                f"s3Config needs accessId, accessSecret, bucketName and endpointUrl as strings; "
                f"missing or wrong: {', '.join(sorted(fields))}"
            ) from None
        except (SettingsError, ValueError):
            raise InvalidRequest("s3Config endpointUrl is not an S3 endpoint") from None
        self._bucket = Bucket(client, location.name)

    async def store(self, file: StoredFile) -> str:
        """Upload by a presigned request and return a presigned link."""
        key = self._bucket.key(file)
        url, headers = self._bucket.signed_upload(file, key)
        try:
            async with (
                asyncio.timeout(UPLOAD_SECONDS),
                AsyncClient(
                    policy=self._policy, resolver=self._resolver, trust_env=False
                ) as client,
            ):
                answer = await client.put(
                    url, content=file.content, headers=headers, timeout=UPLOAD_SECONDS
                )
        except SSRFGuardError as refused:
            raise StorageError(
                "The edited image could not be stored: s3Config endpointUrl is not an "
                "allowed public address"
            ) from refused
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            raise StorageError(
                "The edited image could not be stored: s3Config endpointUrl could not be reached"
            ) from error
        if not answer.is_success:
            raise StorageError(
                f"The edited image could not be stored: the bucket of s3Config answered "
                f"{answer.status_code}"
            )
        return self._bucket.link(key)
