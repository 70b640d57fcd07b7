"""A plan: the precisions, attention kernels and memory savings with which a mode runs on a GPU.

Pure data, no torch. `kontext.inference.mode` chooses a plan, `kontext.inference.acceleration`
applies it.
"""

from dataclasses import dataclass
from typing import Literal

from kontext.settings import Mode

Precision = Literal["bfloat16", "float8", "int8", "float8 weights", "int8 weights"]
"""The precision of a linear layer. `float8` and `int8` also quantise the layer's input at each call
and multiply in 8 bits; `... weights` only store the weights in 8 bits. Each row has a scale."""

Attention = Literal["torch", "cudnn", "flash 3"]
"""A bfloat16 attention kernel: the one that torch chooses, cuDNN's, or FlashAttention 3."""

Float8Attention = Literal["flash 3 float8"]


@dataclass(frozen=True, slots=True)
class Plan:
    """How a mode runs on a GPU.

    Attributes:
        mode: The mode's name, for provenance.
        transformer: The precision of the blocks' linears, but for the modulation.
        modulation: The precision of the blocks' adaLN linears. They are a quarter of the weights
            and take none of the time, because they read one vector where the others read
            thousands; an error in them shifts every token.
        text_encoder: The precision of T5's linears.
        step_cache: Whether some steps are predicted.
        attention: The bfloat16 attention kernel.
        float8_attention: The float8 attention kernel of all but the outer blocks, if any. No mode
            has one yet: the benchmark measures its gain and its cost.
        tiled: Whether large images are encoded and decoded in tiles.
        streamed: Whether the bfloat16 weights do not fit the GPU, so that each layer must be
            quantised while it is loaded.
    """

    mode: Mode = "exact"
    transformer: Precision = "bfloat16"
    modulation: Precision = "bfloat16"
    text_encoder: Precision = "bfloat16"
    step_cache: bool = False
    attention: Attention = "torch"
    float8_attention: Float8Attention | None = None
    tiled: bool = False
    streamed: bool = False


EXACT = Plan()
