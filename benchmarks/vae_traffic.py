"""What compiling the VAE could gain at most: memory traffic between its convolutions.

    .venv/bin/python benchmarks/vae_traffic.py

Counted, not timed: tensors have a shape and no memory, so it runs anywhere in seconds. Between two
convolutions an eager VAE reads and writes each intermediate result; in the layout that cuDNN's
convolutions want, torch's group norm also copies its input to another layout, from which the next
convolution copies it back. A perfect compiler would read twice and write once for a group norm with
its SiLU, and once each for a residual sum. The difference at the memory's full speed is the bound.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from flux_model import autoencoder
from flux_sizes import FULL
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

SIDE = 1024
H100_BYTES_A_SECOND = 3.35e12
"""Memory bandwidth by NVIDIA's data sheet (SXM5)."""


class Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the bytes that each kind of operation writes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.written: Counter[str] = Counter()

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Call the operation and count its output."""
        result = func(*args, **(kwargs or {}))
        tensors = (leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor))
        self.written[func.overloadpacket.__name__] += sum(each.nbytes for each in tensors)
        return result


def eager_bytes(written: Counter[str]) -> float:
    """Return what is read and written between the convolutions."""
    norm = written["native_group_norm"]
    layout_copies = 2 * (norm + norm)
    return 3 * norm + layout_copies + 2 * written["silu"] + 3 * written["add"] + 2 * written["div"]


def fused_bytes(written: Counter[str]) -> float:
    """Return the least that a compiler could leave of it."""
    return 3 * written["native_group_norm"] + 3 * written["add"]


def milliseconds_to_gain(run: Callable[[], object]) -> float:
    """Return the bound for one call, on an H100."""
    with torch.no_grad(), Traffic() as traffic:
        run()
    spared = eager_bytes(traffic.written) - fused_bytes(traffic.written)
    return spared / H100_BYTES_A_SECOND * 1e3


def main() -> None:
    """Print the bound for one edit, which encodes a reference and decodes a result."""
    with torch.device("meta"):
        model = autoencoder(FULL.autoencoder).bfloat16()
        image = torch.empty(1, 3, SIDE, SIDE, dtype=torch.bfloat16)
        latents = torch.empty(1, 16, SIDE // 8, SIDE // 8, dtype=torch.bfloat16)
        bound = {
            "encode_milliseconds": round(milliseconds_to_gain(lambda: model.encode(image)), 1),
            "decode_milliseconds": round(milliseconds_to_gain(lambda: model.decode(latents)), 1),
        }
    print(json.dumps({"at_most_gained_by_compiling": bound, "side": SIDE}))


if __name__ == "__main__":
    main()
