"""Stores signed artifacts where the deployer says: in a directory, or in the bucket.

An artifact is code that the worker will run. So it is returned only after its HMAC-SHA256 with the
deployer's secret has been verified. Does not know torch.

A signature proves who made an artifact and for which key, but not when: anyone who can write to the
store can put back an earlier artifact of the same key. The key names every version that the code
was made with, so at worst that is code that such a worker once compiled itself.
"""

import hashlib
import hmac
import logging
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

log = logging.getLogger("kontext")

MAX_BYTES = 256 * 1024 * 1024
"""The largest signed artifact; the transformer's two compiled blocks take about 1 MB on a CPU."""

IN_BUCKET = "bucket:"
"""The beginning of COMPILE_CACHE when it names a prefix in the bucket of the results."""

_PATIENCE = s3_client.Patience(seconds=15, attempts=2)
"""Compiling takes a minute, so waiting much longer for a bucket would not pay."""

_SIGNATURE = hashlib.sha256().digest_size


class Untrusted(Exception):
    """An artifact must not be used; the message says why."""


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
    client = s3_client.connect(location, s3_client.session_of(settings), _PATIENCE)
    return BucketFolder(client, location.name, place.removeprefix(IN_BUCKET))


def open_store(settings: Settings) -> "SignedStore | None":
    """Return the store of compiled code, or None unless `COMPILE_CACHE` and its secret are set.

    Raises:
        BootError: The place is in a bucket, and the settings name none or have no credentials.
    """
    place, secret = settings.compile_cache, settings.compile_cache_secret
    if place is None:
        return None
    if secret is None:
        log.warning("compile cache: off, because COMPILE_CACHE_SECRET is not set")
        return None
    return SignedStore(open_place(place, settings), secret.get_secret_value())


class SignedStore:
    """Artifacts under keys, each signed together with its key.

    Args:
        store: The place of the signed bytes.
        secret: The deployer's secret; anyone who knows it can run code in every worker.
        max_bytes: The largest artifact, signature included.
    """

    def __init__(self, store: Store, secret: str, max_bytes: int = MAX_BYTES) -> None:
        self._store = store
        self._secret = secret.encode()
        self._max_bytes = max_bytes

    def read(self, key: str) -> bytes | None:
        """Return the artifact of a key, or None if there is none.

        Raises:
            Untrusted: It is too large, damaged, unsigned, or signed for another key or secret.
        """
        signed = self._store.read(_name(key), self._max_bytes + 1)
        if signed is None:
            return None
        self._refuse_large(signed)
        signature, artifact = signed[:_SIGNATURE], signed[_SIGNATURE:]
        if not hmac.compare_digest(signature, self._signature(key, artifact)):
            raise Untrusted("it is damaged, or not signed with COMPILE_CACHE_SECRET for this key")
        return artifact

    def write(self, key: str, artifact: bytes) -> None:
        """Sign an artifact and store it; it replaces an earlier one of the same key.

        Raises:
            Untrusted: It is too large to be read back.
        """
        signed = self._signature(key, artifact) + artifact
        self._refuse_large(signed)
        self._store.write(_name(key), signed)

    def _refuse_large(self, signed: bytes) -> None:
        if len(signed) > self._max_bytes:
            raise Untrusted(f"it is larger than {self._max_bytes} bytes")

    def _signature(self, key: str, artifact: bytes) -> bytes:
        # A digest has a fixed length, so no other pair of key and artifact makes the same message.
        return hmac.digest(self._secret, _digest(key).digest() + artifact, "sha256")


def _name(key: str) -> str:
    return f"{_digest(key).hexdigest()}.compiled"


def _digest(key: str) -> "hashlib._Hash":
    return hashlib.sha256(key.encode())
