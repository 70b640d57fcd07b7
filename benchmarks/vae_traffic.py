"""Compute from memory traffic how much time compiling the VAE could save at most.

    .venv/bin/python benchmarks/vae_traffic.py

Traffic is counted, not timed, on tensors without memory, so this runs anywhere in seconds. Between
two convolutions an eager VAE reads and writes each intermediate result. In the layout of cuDNN's
convolutions, torch's group norm also copies its input to another layout, from which the next
convolution copies it back. A perfect compiler would read twice and write once for a group norm with
its SiLU; a residual sum reads two results and writes one either way. The difference, at the full
memory bandwidth, is the most that compiling can save.
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
    """Counts the bytes that each kind of operation writes."""

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
    """Return the bytes that eager code reads and writes between the convolutions."""
    norm = written["native_group_norm"]
    layout_copies = 2 * (norm + norm)
    return 3 * norm + layout_copies + 2 * written["silu"] + 3 * written["add"] + 2 * written["div"]


def fused_bytes(written: Counter[str]) -> float:
    """Return the bytes that a perfect compiler would leave of these."""
    return 3 * written["native_group_norm"] + 3 * written["add"]


def max_milliseconds_saved(run: Callable[[], object]) -> float:
    """Return the most that compiling could save in one call on an H100."""
    with torch.no_grad(), Traffic() as traffic:
        run()
    saved = eager_bytes(traffic.written) - fused_bytes(traffic.written)
    return saved / H100_BYTES_A_SECOND * 1e3


def main() -> None:
    """Print the bounds for one edit, which encodes a reference and decodes a result."""
    with torch.device("meta"):
        model = autoencoder(FULL.autoencoder).bfloat16()
        image = torch.empty(1, 3, SIDE, SIDE, dtype=torch.bfloat16)
        latents = torch.empty(1, 16, SIDE // 8, SIDE // 8, dtype=torch.bfloat16)
        bound = {
            "encode_milliseconds": round(max_milliseconds_saved(lambda: model.encode(image)), 1),
            "decode_milliseconds": round(max_milliseconds_saved(lambda: model.decode(latents)), 1),
        }
    print(json.dumps({"at_most_gained_by_compiling": bound, "side": SIDE}))


if __name__ == "__main__":
    main()
