"""Shares compiled code between the workers of an endpoint.

The first worker stores torch's compile artifacts, and later ones load them. The cache is optional:
artifacts that are missing, damaged or not trusted cost a log line and a compilation. Does not know
where artifacts are stored, or why they can be trusted.
"""

import json
import logging
import platform
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from typing import Protocol

import torch

from kontext import __version__
from kontext.inference.model import Model

log = logging.getLogger("kontext")

_FORMAT = 2
"""The version of the artifacts' format; increase it when their meaning changes."""


class ArtifactStore(Protocol):
    """Stores artifacts under keys; its exceptions are logged, and the worker compiles."""

    def read(self, key: str) -> bytes | None:
        """Return the artifact, which can be trusted, or None if there is none."""

    def write(self, key: str, artifact: bytes) -> None:
        """Store an artifact, in place of an earlier one."""


class CompileCache:
    """This worker's compiled artifacts, shared with the endpoint's other workers.

    Args:
        store: The store of the artifacts.
        key: The key of the artifacts; see `identity`.
    """

    def __init__(self, store: ArtifactStore, key: str) -> None:
        self._store = store
        self._key = key
        self._loaded: set[str] = set()

    def load(self) -> bool:
        """Load stored artifacts into torch before it compiles; return whether there were any."""
        try:
            artifact = self._store.read(self._key)
            if artifact is None:
                log.info("compile cache: nothing kept yet; compiling")
                return False
            info = torch.compiler.load_cache_artifacts(artifact)
        except Exception as error:  # noqa: BLE001 - a worker without a cache is still a worker
            log.warning("compile cache: what is kept is ignored: %s; compiling anew", error)
            return False
        if info is None:
            log.warning("compile cache: what is kept is ignored: torch cannot read it")
            return False
        self._loaded = set(chain.from_iterable(info.artifacts.values()))
        log.info("compile cache: loaded %d bytes", len(artifact))
        return True

    def save(self) -> bool:
        """Store what was compiled, unless all of it was loaded; return whether it was stored."""
        try:
            compiled = torch.compiler.save_cache_artifacts()
            if compiled is None:
                return False
            artifact, info = compiled
            if self._loaded.issuperset(chain.from_iterable(info.artifacts.values())):
                return False
            self._store.write(self._key, artifact)
        except Exception as error:  # noqa: BLE001 - the next worker compiles
            log.warning("compile cache: not saved: %s", error)
            return False
        log.info("compile cache: saved %d bytes", len(artifact))
        return True


def identity(model: Model) -> str:
    """Return the key of the model's artifacts: everything that compiled code depends on.

    Args:
        model: The model, with its pipeline on its device.
    """
    facts = {
        "format": _FORMAT,
        "kontext": __version__,
        "model": model.name,
        "revision": model.revision,
        "plan": asdict(model.plan),
        "torch": torch.__version__,
        "torchao": version("torchao"),
        "triton": _version("triton"),
        "diffusers": version("diffusers"),
        "python": platform.python_version(),
        "device": _device_name(model.pipeline.device),
    }
    return json.dumps(facts, sort_keys=True)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {platform.machine()}"
