"""Which stored artifacts are returned; `tests/inference/test_compile_cache.py` uses real ones."""

import pytest

from kontext.settings import Settings
from kontext.startup.artifact_store import SignedStore, Untrusted, open_store

KEY, ARTIFACT, SECRET = "torch 2.13.0", b"compiled", "a secret of the deployer"


class MemoryPlace(dict[str, bytes]):
    """Bytes under names, in memory."""

    def read(self, name: str, max_bytes: int) -> bytes | None:
        content = self.get(name)
        return None if content is None else content[:max_bytes]

    def write(self, name: str, content: bytes) -> None:
        self[name] = content


@pytest.fixture
def place() -> MemoryPlace:
    """A place with one signed artifact."""
    place = MemoryPlace()
    SignedStore(place, SECRET).write(KEY, ARTIFACT)
    return place


def test_a_signed_artifact_is_returned(place: MemoryPlace) -> None:
    """Under its own key only."""
    store = SignedStore(place, SECRET)

    assert store.read(KEY) == ARTIFACT
    assert store.read("torch 2.14.0") is None


def test_an_artifact_of_another_secret_is_refused(place: MemoryPlace) -> None:
    """Anyone may be able to write to the place."""
    with pytest.raises(Untrusted, match="not signed with COMPILE_CACHE_SECRET"):
        SignedStore(place, "another secret").read(KEY)


def test_an_artifact_of_another_key_is_refused(place: MemoryPlace) -> None:
    """It could be code for another version, put in the place of this one's."""
    store = SignedStore(place, SECRET)
    store.write("torch 2.14.0", b"of another version")
    first, second = place
    place[first] = place[second]

    with pytest.raises(Untrusted, match="for this key"):
        store.read(KEY)


@pytest.mark.parametrize("position", [0, -1], ids=["signature", "artifact"])
def test_a_changed_byte_is_refused(place: MemoryPlace, position: int) -> None:
    """In the signature or in the artifact."""
    (name,) = place
    content = bytearray(place[name])
    content[position] ^= 1
    place[name] = bytes(content)

    with pytest.raises(Untrusted, match="damaged"):
        SignedStore(place, SECRET).read(KEY)


def test_too_large_an_artifact_is_neither_written_nor_read(place: MemoryPlace) -> None:
    """The limit includes the signature of 32 bytes."""
    size = len(ARTIFACT) + 32

    assert SignedStore(place, SECRET, max_bytes=size).read(KEY) == ARTIFACT
    small = SignedStore(place, SECRET, max_bytes=size - 1)
    with pytest.raises(Untrusted, match=f"larger than {size - 1} bytes"):
        small.read(KEY)
    with pytest.raises(Untrusted, match=f"larger than {size - 1} bytes"):
        small.write(KEY, ARTIFACT)


def test_without_a_place_or_a_secret_there_is_no_store(caplog: pytest.LogCaptureFixture) -> None:
    """A place without a secret is probably a mistake, so that is logged."""
    assert open_store(Settings.load()) is None
    assert not caplog.messages
    assert open_store(Settings.load(compile_cache="/nowhere")) is None
    assert caplog.messages == ["compile cache: off, because COMPILE_CACHE_SECRET is not set"]
