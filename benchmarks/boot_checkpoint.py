"""Write a synthetic checkpoint with random bfloat16 weights, in the real layout and classes.

    python benchmarks/boot_checkpoint.py FOLDER GIGABYTES

The transformer in shards and T5 share its size as in FLUX.1 Kontext [dev]; CLIP and the
autoencoder are tiny.
"""

import sys
from dataclasses import replace

import torch
from flux_model import pipeline
from flux_sizes import TINY, Sizes, T5Sizes, TransformerSizes

_BYTES_A_WEIGHT = 2


def sizes(gigabytes: float) -> Sizes:
    """Return sizes of about that many gigabytes: 70 % in the transformer, 28 % in T5."""
    transformer = TransformerSizes(
        double_blocks=2, single_blocks=0, heads=12, rotary_axes=(16, 56, 56)
    )
    block = 18 * transformer.width**2 * _BYTES_A_WEIGHT  # of the single ones, nearly
    t5 = T5Sizes(width=1024, head_width=64, network_width=4096, layers=0, heads=16)
    layer = (4 * t5.width**2 + 3 * t5.width * t5.network_width) * _BYTES_A_WEIGHT
    return replace(
        TINY,
        transformer=replace(
            transformer, single_blocks=max(1, int(0.7 * gigabytes * 1e9 / block) - 5)
        ),
        t5=replace(t5, layers=max(1, int(0.28 * gigabytes * 1e9 / layer))),
    )


def write(folder: str, gigabytes: float) -> None:
    """Write the checkpoint into a folder."""
    pipeline(sizes(gigabytes), torch.bfloat16).save_pretrained(folder, max_shard_size="1GB")


if __name__ == "__main__":
    write(sys.argv[1], float(sys.argv[2]))
