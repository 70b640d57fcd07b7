"""Computes how much GPU memory a plan needs, from parameter counts.

Pure arithmetic, no torch. Does not know GPUs or how plans are chosen.
"""

from kontext.inference.plan import Plan, Precision

_BYTES: dict[Precision, int] = {
    "bfloat16": 2,
    "float8": 1,
    "int8": 1,
    "float8 weights": 1,
    "int8 weights": 1,
}
"""Bytes of a parameter."""

# Parameters of FLUX.1 Kontext [dev] (its published configuration): the transformer has 11.901e9 in
# 19 double and 38 single blocks of width 3072, T5-XXL's encoder 4.762e9, CLIP-L 0.123e9, the VAE
# 0.084e9.
_MODULATION = 3.228e9
"""The blocks' adaLN linears: (19 * 2 * 6 + 38 * 3) * 3072 * (3072 + 1)."""
_BLOCKS = 11.901e9 - _MODULATION - 0.065e9
"""The rest of the blocks; 0.065e9 are the embedders and the last projection."""
_TEXT_ENCODER = 4.762e9 - 0.132e9
"""T5's linears, without its embedding."""
_NEVER_QUANTISED = 0.065e9 + 0.132e9 + 0.123e9 + 0.084e9
"""The embedders, the last projection, T5's embedding, CLIP and the VAE."""
_REFERENCE_ENCODER = 0.034e9
"""The VAE's encoder, of which a float32 copy encodes references."""

WORKING_BYTES = 4e9
"""Memory for an edit of 1024 * 1024, beside the weights. A choice, not measured on a GPU."""
RESERVED_BYTES = 1.5e9
"""Memory for CUDA itself, the safety checker and fragmentation. Also a choice, not measured."""
BYTES_PER_PIXEL = 4 * 256 * 2
"""Memory for each pixel of an image that is decoded whole: four bfloat16 tensors of 256 channels.
To encode a reference takes as much: four float32 tensors of 128."""


def weight_bytes(plan: Plan) -> float:
    """Return the memory of the weights, in bytes."""
    return (
        _BLOCKS * _BYTES[plan.transformer]
        + _MODULATION * _BYTES[plan.modulation]
        + _TEXT_ENCODER * _BYTES[plan.text_encoder]
        + _NEVER_QUANTISED * _BYTES["bfloat16"]
        + _REFERENCE_ENCODER * 4
    )


def peak_bytes(plan: Plan) -> float:
    """Return the planned peak of allocated memory during an edit, in bytes."""
    return weight_bytes(plan) + WORKING_BYTES
