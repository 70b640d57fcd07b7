"""Compiled once an endpoint: the first worker keeps torch's artifacts, later ones load them.

It is never needed and never fatal: whatever is missing, damaged or foreign is logged in one line
and compiled anew. Where the artifacts lie, and why they can be trusted, is their store's business.
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
"""Raise it when what is kept changes its meaning."""


class ArtifactStore(Protocol):
    """Keeps artifacts under keys; whatever it raises, the worker logs it and compiles anew."""

    def read(self, key: str) -> bytes | None:
        """Return an artifact that can be trusted, or None when there is none."""

    def write(self, key: str, artifact: bytes) -> None:
        """Keep an artifact, in place of what was there."""


class CompileCache:
    """This worker's compiled artifacts, shared with the endpoint's other workers.

    Args:
        store: Where the deployer keeps them.
        key: What they were compiled from, by and for; see `identity`.
    """

    def __init__(self, store: ArtifactStore, key: str) -> None:
        self._store = store
        self._key = key
        self._loaded: set[str] = set()

    def load(self) -> bool:
        """Hand kept artifacts to torch, before anything is compiled; tell whether there were."""
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
        """Keep what was compiled, unless all of it was loaded; tell whether it was kept."""
        try:
            compiled = torch.compiler.save_cache_artifacts()
            if compiled is None:
                return False
            artifact, info = compiled
            if self._loaded.issuperset(chain.from_iterable(info.artifacts.values())):
                return False
            self._store.write(self._key, artifact)
        except Exception as error:  # noqa: BLE001 - the next worker will compile, that is all
            log.warning("compile cache: not saved: %s", error)
            return False
        log.info("compile cache: saved %d bytes", len(artifact))
        return True


def identity(model: Model) -> str:
    """Return the key: everything that makes compiled code what it is.

    Args:
        model: The pipeline, on its device.
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
