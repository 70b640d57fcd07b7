"""Import Black Forest Labs' own code from a checkout.

None of it is part of this project. Its sampling module imports text encoders and a download helper
but only mentions their names; empty modules replace them, so that only torch and einops are needed.
"""

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

ADDRESS = "https://github.com/black-forest-labs/flux"

_NAMED_ONLY: dict[str, dict[str, object]] = {
    "flux.modules.conditioner": {"HFEmbedder": object},
    "flux.modules.image_embedders": dict.fromkeys(
        ("CannyImageEncoder", "DepthImageEncoder", "ReduxImageEncoder"), object
    ),
    "flux.util": {"PREFERED_KONTEXT_RESOLUTIONS": ()},
}


class NoCheckoutError(Exception):
    """Raised for a folder that is no checkout of the reference implementation."""


@dataclass(frozen=True, slots=True)
class Reference:
    """The modules of the reference implementation that the comparison calls.

    Attributes:
        model: `flux.model`, the transformer.
        autoencoder: `flux.modules.autoencoder`.
        sampling: `flux.sampling`: noise, packing, schedule, denoising.
    """

    model: Any
    autoencoder: Any
    sampling: Any


def open_checkout(folder: Path) -> Reference:
    """Import the reference implementation from a checkout.

    Raises:
        NoCheckoutError: The folder does not contain that code.
    """
    if not (folder / "src" / "flux" / "sampling.py").is_file():
        raise NoCheckoutError(f"BFL must name a checkout of {ADDRESS}, got {str(folder)!r}")
    sys.path.insert(0, str(folder / "src"))
    sys.modules |= {name: _module(name, names) for name, names in _NAMED_ONLY.items()}
    names = ("flux.model", "flux.modules.autoencoder", "flux.sampling")
    return Reference(*map(importlib.import_module, names))


def _module(name: str, names: dict[str, object]) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(names)
    return module
