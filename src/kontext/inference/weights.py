"""Finds the directory with the model's weights.

Searches `MODEL_PATH`, then the two places where Runpod puts a cached model, a network volume, and
the container image. Never downloads: a worker boots offline. Knows paths only; no torch.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kontext.errors import BootError

VOLUME = Path("/runpod-volume")
"""The directory where Runpod mounts its model cache and network volumes."""

STORE = Path("/runpod/model-store/huggingface")
"""The directory where Runpod mounts its model store, as `{organisation}/{name}/{revision}`.

Runpod does not document it; programs that run there have found the files in that directory, or in
`snapshots/{commit}` below it.
"""

IMAGE = Path("/models")
"""The directory where the image build puts weights."""

_INDEX = "model_index.json"
_DOWNLOAD_RECORD = f".cache/huggingface/download/{_INDEX}.metadata"
"""The file that `hf download --local-dir` writes; its first line is the commit."""
_COMMIT = re.compile(r"[0-9a-f]{40}")
"""A commit on the Hub: the revision that cannot change."""


@dataclass(frozen=True, slots=True)
class Weights:
    """A directory in diffusers' layout.

    Attributes:
        path: The directory.
        revision: Its commit on the Hub, or `unknown`.
    """

    path: Path
    revision: str

    @property
    def files(self) -> list[Path]:
        """The weight files that a pipeline reads, in the order in which diffusers reads them.

        Files at the top are left out: the Hub's directory has a second copy of the transformer
        there.
        """
        return sorted(self.path.glob("*/*.safetensors"))


def find(
    model_id: str,
    model_path: str | None,
    volume: Path = VOLUME,
    image: Path = IMAGE,
    store: Path = STORE,
) -> Weights:
    """Return the first directory that holds a pipeline.

    Args:
        model_id: The model's name on the Hub.
        model_path: The directory that the deployer has set; no other is searched then.
        volume: The directory with Runpod's model cache, or of a network volume.
        image: The directory of the weights in the container image.
        store: The directory with Runpod's model store.

    Raises:
        BootError: No directory does; says where it searched and what a deployer can do.
    """
    if model_path is not None:
        return _require(Path(model_path))
    for candidate in _candidates(model_id, volume, image, store):
        if (candidate / _INDEX).is_file():
            return Weights(candidate, _revision(candidate))
    raise BootError(
        f"no weights of {model_id} in Runpod's model cache, under {volume}, {store} or {image}: "
        f"accept the licence at https://huggingface.co/{model_id}, then name the model and a "
        "Hugging Face token in the endpoint's Model field, or set MODEL_PATH"
    )


def are_present(model_id: str) -> bool:
    """Return whether `find` would find the weights without a `MODEL_PATH`."""
    candidates = _candidates(model_id, VOLUME, IMAGE, STORE)
    return any((path / _INDEX).is_file() for path in candidates)


def _require(path: Path) -> Weights:
    if not (path / _INDEX).is_file():
        raise BootError(f"MODEL_PATH {path} holds no {_INDEX}")
    return Weights(path, _revision(path))


def _candidates(model_id: str, volume: Path, image: Path, store: Path) -> Iterator[Path]:
    for name in dict.fromkeys((model_id, model_id.lower())):  # Runpod's paths may be in lower case
        yield from _cached_snapshots(
            volume / "huggingface-cache/hub" / f"models--{name.replace('/', '--')}"
        )
        for revision in sorted((store / name).glob("*")):
            yield from _snapshots(revision)  # first, since the directory above may be incomplete
            yield revision
    for root in (volume, image):
        yield root / model_id.rpartition("/")[2]


def _cached_snapshots(directory: Path) -> Iterator[Path]:
    """Yield the snapshots in a model's Hub cache, that of the main branch first."""
    main = directory / "refs/main"
    if main.is_file():
        yield directory / "snapshots" / main.read_text().strip()
    yield from _snapshots(directory)


def _snapshots(directory: Path) -> list[Path]:
    return sorted((directory / "snapshots").glob("*"))


def _revision(path: Path) -> str:
    if path.parent.name == "snapshots" or _COMMIT.fullmatch(path.name):
        return path.name
    record = path / _DOWNLOAD_RECORD
    return record.read_text().split()[0] if record.is_file() else "unknown"
