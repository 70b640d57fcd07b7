"""Where the weights lie: pure paths, no torch.

Searched in this order: `MODEL_PATH`, the two places where Runpod puts a cached model, a network
volume, the image. Nothing is ever downloaded here; a worker boots offline or not at all.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kontext.errors import BootError

VOLUME = Path("/runpod-volume")
"""Where Runpod mounts both its model cache and a network volume."""

STORE = Path("/runpod/model-store/huggingface")
"""Where Runpod mounts the models of its model store, as `{organisation}/{name}/{revision}`.

Its documentation does not name it; programs that run there do, and have found the files in that
directory or in `snapshots/{commit}` below it.
"""

IMAGE = Path("/models")
"""Where the image build puts weights."""

_INDEX = "model_index.json"
_DOWNLOAD_RECORD = f".cache/huggingface/download/{_INDEX}.metadata"
"""Written by `hf download --local-dir`; its first line is the commit."""
_COMMIT = re.compile(r"[0-9a-f]{40}")
"""What the Hub calls a revision that cannot change."""


@dataclass(frozen=True, slots=True)
class Weights:
    """A directory in diffusers' layout, and the Hub commit that it holds, if known."""

    path: Path
    revision: str

    @property
    def files(self) -> list[Path]:
        """What a pipeline reads, in the order in which diffusers loads its components.

        Not the files at the top: the Hub's directory holds the transformer there once more.
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

    Raises:
        BootError: None does; says where was looked and what a deployer can do.
    """
    if model_path is not None:
        return _given(Path(model_path))
    for candidate in _candidates(model_id, volume, image, store):
        if (candidate / _INDEX).is_file():
            return Weights(candidate, _revision(candidate))
    raise BootError(
        f"no weights of {model_id} in Runpod's model cache, under {volume}, {store} or {image}: "
        f"accept the licence at https://huggingface.co/{model_id}, then name the model and a "
        "Hugging Face token in the endpoint's Model field, or set MODEL_PATH"
    )


def present(model_id: str) -> bool:
    """Tell whether this machine holds the weights anywhere but at a `MODEL_PATH`."""
    candidates = _candidates(model_id, VOLUME, IMAGE, STORE)
    return any((path / _INDEX).is_file() for path in candidates)


def _given(path: Path) -> Weights:
    if not (path / _INDEX).is_file():
        raise BootError(f"MODEL_PATH {path} holds no {_INDEX}")
    return Weights(path, _revision(path))


def _candidates(model_id: str, volume: Path, image: Path, store: Path) -> Iterator[Path]:
    for name in dict.fromkeys((model_id, model_id.lower())):  # Runpod's paths may be in lower case
        yield from _cached(volume / "huggingface-cache/hub" / f"models--{name.replace('/', '--')}")
        for revision in sorted((store / name).glob("*")):
            yield from _snapshots(revision)  # before the directory that holds them
            yield revision
    for root in (volume, image):
        yield root / model_id.rpartition("/")[2]


def _cached(directory: Path) -> Iterator[Path]:
    """Yield a Hub cache's snapshots of one model, that of its main branch first."""
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
