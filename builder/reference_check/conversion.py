"""Convert weights between the reference implementation and diffusers, tensor by tensor.

Each rule says which tensors of diffusers make up one tensor of the reference, and so serves both
directions. Knows names and shapes, not what is computed with them.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch

State = Mapping[str, torch.Tensor]
Form = Literal["joined", "halves swapped", "1x1 convolution"]
_KINDS = ("weight", "bias")


@dataclass(frozen=True, slots=True)
class Rule:
    """How one tensor of the reference is made of tensors of diffusers.

    Attributes:
        theirs: Name of the tensor in the reference.
        ours: Names in diffusers, in the order in which they are joined along the first axis.
        form: `halves swapped` for scale and shift, whose order differs; `1x1 convolution` for what
            is a linear layer in diffusers.
    """

    theirs: str
    ours: tuple[str, ...]
    form: Form = "joined"


def to_theirs(ours: State, rules: list[Rule]) -> dict[str, torch.Tensor]:
    """Convert tensors of diffusers to the reference's."""
    return {rule.theirs: _join(rule, [ours[name] for name in rule.ours]) for rule in rules}


def to_ours(theirs: State, rules: list[Rule], shapes: State) -> dict[str, torch.Tensor]:
    """Convert tensors of the reference to diffusers'.

    Args:
        theirs: The reference's tensors, by name.
        rules: The rules of the network.
        shapes: Tensors of diffusers, by name, of which only the shapes are used.
    """
    found: dict[str, torch.Tensor] = {}
    for rule in rules:
        sizes = [shapes[name].shape[0] for name in rule.ours]
        found |= zip(rule.ours, _split(rule, theirs[rule.theirs], sizes), strict=True)
    return found


def _join(rule: Rule, parts: list[torch.Tensor]) -> torch.Tensor:
    whole = torch.cat(parts)
    if rule.form == "halves swapped":
        return torch.cat(whole.chunk(2)[::-1])
    return whole[:, :, None, None] if rule.form == "1x1 convolution" else whole


def _split(rule: Rule, whole: torch.Tensor, sizes: list[int]) -> list[torch.Tensor]:
    if rule.form == "halves swapped":
        whole = torch.cat(whole.chunk(2)[::-1])
    if rule.form == "1x1 convolution":
        whole = whole[:, :, 0, 0]
    return [part.clone() for part in torch.split(whole, sizes)]


_EMBEDDERS = {
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "txt_in": "context_embedder",
    "img_in": "x_embedder",
    "final_layer.linear": "proj_out",
}

_STREAMS = {
    "img": ("norm1", "ff", "to_out.0", "norm_q", "norm_k", ("to_q", "to_k", "to_v")),
    "txt": (
        "norm1_context",
        "ff_context",
        "to_add_out",
        "norm_added_q",
        "norm_added_k",
        ("add_q_proj", "add_k_proj", "add_v_proj"),
    ),
}
"""For each of a double block's two streams, the names of its parts in diffusers."""


def transformer_rules(double: int, single: int) -> list[Rule]:
    """Return the rules for a transformer with that many double and single blocks."""
    rules = [rule for theirs, ours in _EMBEDDERS.items() for rule in _both(theirs, ours)]
    for index in range(double):
        rules += _double_block(f"double_blocks.{index}", f"transformer_blocks.{index}")
    for index in range(single):
        rules += _single_block(f"single_blocks.{index}", f"single_transformer_blocks.{index}")
    final = ("final_layer.adaLN_modulation.1", "norm_out.linear")
    return [*rules, *_both(*final, form="halves swapped")]


def _both(theirs: str, *ours: str, form: Form = "joined") -> Iterator[Rule]:
    """Yield the rules for a layer's weight and bias."""
    for kind in _KINDS:
        yield Rule(f"{theirs}.{kind}", tuple(f"{name}.{kind}" for name in ours), form)


def _double_block(theirs: str, ours: str) -> Iterator[Rule]:
    for stream, (norm, network, output, query, key, products) in _STREAMS.items():
        attention = f"{theirs}.{stream}_attn"
        yield from _both(f"{theirs}.{stream}_mod.lin", f"{ours}.{norm}.linear")
        yield from _both(f"{attention}.qkv", *(f"{ours}.attn.{name}" for name in products))
        yield from _both(f"{attention}.proj", f"{ours}.attn.{output}")
        yield Rule(f"{attention}.norm.query_norm.scale", (f"{ours}.attn.{query}.weight",))
        yield Rule(f"{attention}.norm.key_norm.scale", (f"{ours}.attn.{key}.weight",))
        yield from _both(f"{theirs}.{stream}_mlp.0", f"{ours}.{network}.net.0.proj")
        yield from _both(f"{theirs}.{stream}_mlp.2", f"{ours}.{network}.net.2")


def _single_block(theirs: str, ours: str) -> Iterator[Rule]:
    inputs = [*(f"{ours}.attn.{name}" for name in ("to_q", "to_k", "to_v")), f"{ours}.proj_mlp"]
    yield from _both(f"{theirs}.modulation.lin", f"{ours}.norm.linear")
    yield from _both(f"{theirs}.linear1", *inputs)
    yield from _both(f"{theirs}.linear2", f"{ours}.proj_out")
    yield Rule(f"{theirs}.norm.query_norm.scale", (f"{ours}.attn.norm_q.weight",))
    yield Rule(f"{theirs}.norm.key_norm.scale", (f"{ours}.attn.norm_k.weight",))


_LEVELS = 4
_IN_AUTOENCODER = [
    (r"encoder\.down\.(\d)\.block\.", r"encoder.down_blocks.\1.resnets."),
    (r"encoder\.down\.(\d)\.downsample\.", r"encoder.down_blocks.\1.downsamplers.0."),
    (r"mid\.block_1", "mid_block.resnets.0"),
    (r"mid\.block_2", "mid_block.resnets.1"),
    (r"mid\.attn_1\.norm", "mid_block.attentions.0.group_norm"),
    (r"mid\.attn_1\.proj_out", "mid_block.attentions.0.to_out.0"),
    (r"mid\.attn_1\.([qkv])\.", r"mid_block.attentions.0.to_\1."),
    (r"nin_shortcut", "conv_shortcut"),
    (r"norm_out", "conv_norm_out"),
]


def autoencoder_rules(theirs: State) -> list[Rule]:
    """Return the rules for an autoencoder with FLUX's four levels."""
    return [Rule(name, (_in_autoencoder(name),), _form(name, theirs[name])) for name in theirs]


def _form(name: str, tensor: torch.Tensor) -> Form:
    return "1x1 convolution" if "mid.attn_1" in name and tensor.ndim == 4 else "joined"  # noqa: PLR2004


def _in_autoencoder(name: str) -> str:
    """Return a tensor's name in diffusers, which numbers the decoder's levels in reverse."""
    for pattern, replacement in _IN_AUTOENCODER:
        name = re.sub(pattern, replacement, name)
    for level in range(_LEVELS):
        ours = f"decoder.up_blocks.{_LEVELS - 1 - level}"
        name = name.replace(f"decoder.up.{level}.block.", f"{ours}.resnets.")
        name = name.replace(f"decoder.up.{level}.upsample.", f"{ours}.upsamplers.0.")
    return name
