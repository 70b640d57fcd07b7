"""Sizes of FLUX.1 Kontext [dev]'s networks: the real ones and smaller ones. No torch.

A configuration names what differs between the sizes; `flux_model` builds the networks from it and
holds what they have in common.
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class TransformerSizes:
    """Sizes of a `FluxTransformer2DModel`.

    Attributes:
        double_blocks: Number of blocks that keep text and image apart.
        single_blocks: Number of blocks that do not.
        heads: Attention heads of a block.
        rotary_axes: Entries of a head that encode the image's index, the row and the column.
    """

    double_blocks: int
    single_blocks: int
    heads: int
    rotary_axes: tuple[int, int, int]

    @property
    def head_width(self) -> int:
        """Entries of one head."""
        return sum(self.rotary_axes)

    @property
    def width(self) -> int:
        """Entries of one token."""
        return self.heads * self.head_width


@dataclass(frozen=True, slots=True)
class AutoencoderSizes:
    """Sizes of an `AutoencoderKL` with FLUX's 16 latent channels and eightfold reduction.

    Attributes:
        channels: Channels of each of the four levels.
        blocks: Residual blocks of a level.
        groups: Groups of its normalisations.
        has_attention: Whether the middle blocks attend.
        scaling: Factor from the encoder's latents to the transformer's.
        shift: Mean of the encoder's latents, which is taken off first.
    """

    channels: tuple[int, int, int, int]
    blocks: int
    groups: int
    has_attention: bool = True
    scaling: float = 0.3611
    shift: float = 0.1159


@dataclass(frozen=True, slots=True)
class ClipSizes:
    """Sizes of a `CLIPTextModel`.

    Attributes:
        width: Entries of the pooled vector.
        network_width: Features of the feed-forward networks.
        layers: Number of layers.
        heads: Attention heads of a layer.
        vocabulary: Tokens with an embedding; 0 for as many as the tokenizer has.
    """

    width: int
    network_width: int
    layers: int
    heads: int
    vocabulary: int = 0


@dataclass(frozen=True, slots=True)
class T5Sizes:
    """Sizes of a `T5EncoderModel`.

    Attributes:
        width: Entries of one token.
        head_width: Entries of one head.
        network_width: Features of the feed-forward networks.
        layers: Number of layers.
        heads: Attention heads of a layer.
        vocabulary: Tokens with an embedding; 0 for as many as the tokenizer has.
        distance_buckets: Biases that a head has for the distance between two tokens.
        max_distance: Distance in tokens from which all share one bias.
    """

    width: int
    head_width: int
    network_width: int
    layers: int
    heads: int
    vocabulary: int = 0
    distance_buckets: int = 32
    max_distance: int = 128


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of the four networks of a pipeline."""

    transformer: TransformerSizes
    autoencoder: AutoencoderSizes
    clip: ClipSizes
    t5: T5Sizes


FULL = Sizes(
    TransformerSizes(double_blocks=19, single_blocks=38, heads=24, rotary_axes=(16, 56, 56)),
    AutoencoderSizes(channels=(128, 256, 512, 512), blocks=2, groups=32),
    ClipSizes(width=768, network_width=3072, layers=12, heads=12, vocabulary=49408),
    T5Sizes(width=4096, head_width=64, network_width=10240, layers=24, heads=64, vocabulary=32128),
)
"""FLUX.1 Kontext [dev] as it is published."""

REDUCED = replace(
    FULL,
    transformer=replace(FULL.transformer, double_blocks=2, single_blocks=4),
    t5=replace(FULL.t5, layers=2),
)
"""The real widths with few blocks, so that errors can be compared with float32."""

TINY = Sizes(
    TransformerSizes(double_blocks=1, single_blocks=1, heads=1, rotary_axes=(4, 6, 6)),
    AutoencoderSizes(channels=(4, 4, 4, 4), blocks=1, groups=1, has_attention=False),
    ClipSizes(width=32, network_width=32, layers=1, heads=1),
    T5Sizes(width=32, head_width=32, network_width=32, layers=1, heads=1),
)
"""One block of every kind, for tests: an edit takes well under a second on a CPU."""
