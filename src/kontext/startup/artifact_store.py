"""Signed artifacts in a place that the deployer set: a directory, or a prefix in the bucket.

What comes back is code that the worker will run, so it leaves this module only once its
HMAC-SHA256 with the deployer's secret has been verified. Knows nothing of torch.

A signature tells who made an artifact and for which key, not when: whoever can write to the place
can put back an earlier one of the same key. The key names every version that the code was made
with, so that this is at worst what such a worker has once compiled itself.
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

LARGEST = 256 * 1024 * 1024
"""Bytes of a signed artifact; the transformer's two compiled blocks take about 1 MB on a CPU."""

IN_BUCKET = "bucket:"
"""What a place begins with that is a prefix in the bucket of the results."""

_PATIENCE = s3_client.RetryPolicy(timeout_seconds=15, attempts=2)
"""Compiling anew takes a minute: no reason to wait longer than that for a bucket."""

_SIGNATURE = hashlib.sha256().digest_size


class Untrusted(Exception):
    """What was found may not be used; says why."""


class Store(Protocol):
    """Where the bytes lie. Whatever it raises, the worker logs it and compiles anew."""

    def read(self, name: str, most: int) -> bytes | None:
        """Return at most `most` bytes; None when there is nothing of that name."""

    def write(self, name: str, content: bytes) -> None:
        """Replace the whole at once, so that no reader ever sees a half."""


class Directory:
    """A directory, made when it is first written to; on Runpod, one on a network volume."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, name: str, most: int) -> bytes | None:
        """Return its first bytes; a pipe or a device, which could block, is nothing."""
        with (
            suppress(FileNotFoundError, NotADirectoryError),
            open(self._path / name, "rb", opener=_open_without_waiting) as file,
        ):
            # Asked of the open file: between a look at a path and its opening, it can change.
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return file.read(most)
        return None

    def write(self, name: str, content: bytes) -> None:
        """Write beside it and rename; a crash may cut the file off, which its signature tells."""
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

    def read(self, name: str, most: int) -> bytes | None:
        """Get its first bytes."""
        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + name)
        except ClientError as error:
            # A key without s3:ListBucket hears 403 of an object that is not there.
            if error.response["ResponseMetadata"]["HTTPStatusCode"] in {403, 404}:
                return None
            raise
        with closing(answer["Body"]) as body:
            return body.read(most)

    def write(self, name: str, content: bytes) -> None:
        """Put it: S3 shows an object whole or not at all."""
        self._client.put_object(Bucket=self._bucket, Key=self._prefix + name, Body=content)


def _open_without_waiting(path: str, flags: int) -> int:
    """Open as `open` does, but do not wait for a pipe's writer."""
    return os.open(path, flags | os.O_NONBLOCK)


def at(place: str, settings: Settings) -> Store:
    """Open what the deployer named: a directory, or `bucket:` and a prefix in the bucket.

    Raises:
        BootError: The settings name no bucket, or there are no credentials.
    """
    if not place.startswith(IN_BUCKET):
        return Directory(Path(place))
    location = Location.from_settings(settings)
    client = s3_client.connect(location, s3_client.deployer_session(settings), _PATIENCE)
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
    return SignedStore(at(place, settings), secret.get_secret_value())


class SignedStore:
    """Artifacts under keys, each signed together with its key.

    Args:
        store: Where they lie.
        secret: The deployer's; who knows it may run code in every worker.
        largest: Bytes, signature included.
    """

    def __init__(self, store: Store, secret: str, largest: int = LARGEST) -> None:
        self._store = store
        self._secret = secret.encode()
        self._largest = largest

    def read(self, key: str) -> bytes | None:
        """Return the artifact, or None when there is none.

        Raises:
            Untrusted: It is too large, damaged, unsigned, or signed for another key or secret.
        """
        signed = self._store.read(_name(key), self._largest + 1)
        if signed is None:
            return None
        self._refuse_large(signed)
        signature, artifact = signed[:_SIGNATURE], signed[_SIGNATURE:]
        if not hmac.compare_digest(signature, self._signature(key, artifact)):
            raise Untrusted("it is damaged, or not signed with COMPILE_CACHE_SECRET for this key")
        return artifact

    def write(self, key: str, artifact: bytes) -> None:
        """Sign and store it, in place of what was there.

        Raises:
            Untrusted: It is too large to be read back.
        """
        signed = self._signature(key, artifact) + artifact
        self._refuse_large(signed)
        self._store.write(_name(key), signed)

    def _refuse_large(self, signed: bytes) -> None:
        if len(signed) > self._largest:
            raise Untrusted(f"it is larger than {self._largest} bytes")

    def _signature(self, key: str, artifact: bytes) -> bytes:
        # The key's digest has one length, so that no other pair makes the same message.
        return hmac.digest(self._secret, _digest(key).digest() + artifact, "sha256")


def _name(key: str) -> str:
    return f"{_digest(key).hexdigest()}.compiled"


def _digest(key: str) -> "hashlib._Hash":
    return hashlib.sha256(key.encode())
