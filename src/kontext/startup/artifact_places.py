"""Where artifacts are stored: in a directory, or under a prefix in the bucket of the results.

Does not know what the bytes are, or whether they can be trusted.
"""

import os
import stat
import tempfile
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from botocore.exceptions import ClientError

from kontext.settings import Settings
from kontext.storage import s3_client
from kontext.storage.location import Location

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

IN_BUCKET = "bucket:"
"""The beginning of COMPILE_CACHE when it names a prefix in the bucket of the results."""

_RETRY_POLICY = s3_client.RetryPolicy(timeout_seconds=15, attempts=2)
"""Compiling takes a minute, so waiting much longer for a bucket would not pay."""


class Store(Protocol):
    """Bytes under names. The worker logs any exception from here, and compiles."""

    def read(self, name: str, max_bytes: int) -> bytes | None:
        """Return the first `max_bytes` bytes at most; None if nothing has that name."""

    def write(self, name: str, content: bytes) -> None:
        """Replace the content atomically, so that no reader sees a part of it."""


class Directory:
    """A directory, created by the first write; on Runpod it is on a network volume."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, name: str, max_bytes: int) -> bytes | None:
        """Return the first bytes of a file; None for a pipe or a device, which could block."""
        with (
            suppress(FileNotFoundError, NotADirectoryError),
            open(self._path / name, "rb", opener=_open_without_waiting) as file,
        ):
            # Checked on the open file, because a path can change between a check and its opening.
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return file.read(max_bytes)
        return None

    def write(self, name: str, content: bytes) -> None:
        """Write a temporary file and rename it; the signature reveals one that a crash cut off."""
        self._path.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self._path, prefix=f".{name}-", delete=False) as file:
            temporary = Path(file.name)
            try:
                file.write(content)
                file.flush()
                temporary.replace(self._path / name)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise


class BucketFolder:
    """The objects of a bucket whose keys begin with `prefix`."""

    def __init__(self, client: "S3Client", bucket: str, prefix: str) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = prefix

    def read(self, name: str, max_bytes: int) -> bytes | None:
        """Return the first bytes of an object."""
        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + name)
        except ClientError as error:
            # Without the permission s3:ListBucket, S3 answers 403 for a missing object.
            if error.response["ResponseMetadata"]["HTTPStatusCode"] in {403, 404}:
                return None
            raise
        with closing(answer["Body"]) as body:
            return body.read(max_bytes)

    def write(self, name: str, content: bytes) -> None:
        """Put the object; S3 shows an object whole or not at all."""
        self._client.put_object(Bucket=self._bucket, Key=self._prefix + name, Body=content)


def _open_without_waiting(path: str, flags: int) -> int:
    """Open as `open` does, without waiting for the writer of a pipe."""
    return os.open(path, flags | os.O_NONBLOCK)


def open_place(place: str, settings: Settings) -> Store:
    """Open the place that COMPILE_CACHE names.

    Args:
        place: The path of a directory, or `bucket:` and a prefix in the bucket.
        settings: The bucket and its credentials.

    Raises:
        BootError: The settings name no bucket, or there are no credentials.
    """
    if not place.startswith(IN_BUCKET):
        return Directory(Path(place))
    location = Location.from_settings(settings)
    client = s3_client.connect(location, s3_client.deployer_session(settings), _RETRY_POLICY)
    return BucketFolder(client, location.name, place.removeprefix(IN_BUCKET))
