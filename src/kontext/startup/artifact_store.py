"""Stores signed artifacts where the deployer says.

An artifact is code that the worker will run. So it is returned only after its HMAC-SHA256 with the
deployer's secret has been verified. Does not know torch.

A signature proves who made an artifact and for which key, but not when: anyone who can write to the
store can put back an earlier artifact of the same key. The key names every version that the code
was made with, so at worst that is code that such a worker once compiled itself.
"""

import hashlib
import hmac
import logging

from kontext.settings import Settings
from kontext.startup.artifact_places import Store, open_place

log = logging.getLogger("kontext")

MAX_BYTES = 256 * 1024 * 1024
"""The largest signed artifact; the transformer's two compiled blocks take about 1 MB on a CPU."""

_SIGNATURE_BYTES = hashlib.sha256().digest_size


class Untrusted(Exception):
    """An artifact must not be used; the message says why."""


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
        signature, artifact = signed[:_SIGNATURE_BYTES], signed[_SIGNATURE_BYTES:]
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
