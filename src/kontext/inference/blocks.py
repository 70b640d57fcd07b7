"""The blocks of FLUX's transformer in fewer kernels: the same weights, the numbers to rounding.

They extend the classes of diffusers and replace only the forward pass:

- A single block takes one joint sequence, text before image; diffusers joins and parts the two in
  each of the 38.
- Linears that read the same tokens are one product (`PARTS`), for which the tokens are quantised
  once. The parts stay where a LoRA is loaded, as views of the joint weight; while one of them
  carries a LoRA, each is multiplied by itself.
- Attention gets tensors of batch, tokens, heads and head width as they come from the product.
- Modulation is given, not computed: it is the same for all tokens.

Knows nothing of steps, precisions or plans.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Self

import torch
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_flux import (
    FluxSingleTransformerBlock,
    FluxTransformerBlock,
)
from torch import nn

from kontext.inference.attention import Attend

Rotary = tuple[torch.Tensor, torch.Tensor]
"""Cosines and sines, each tokens x head width, float32."""

Modulation = tuple[torch.Tensor, ...]
"""What shifts, scales and gates the tokens; each steps x 1 x width."""


class Block(nn.Module):
    """What both kinds of block share."""

    PARTS: ClassVar[dict[str, tuple[str, ...]]] = {}
    """The name of each joint linear, and of the linears that it computes at once."""

    attend: Attend
    attn: Any
    _is_joined = False

    def join_projections(self) -> None:
        """Make the joint linears; their parts become views of them.

        All weights must be on one device, in one dtype, not quantised.
        """
        for joint, names in self.PARTS.items():
            self.set_submodule(joint, _joined([self._linear(name) for name in names]))
        self._is_joined = True
        self.share_weights()

    def share_weights(self) -> None:
        """Make the parts views of the joint linears, also after these were quantised."""
        for joint, names in self.PARTS.items():
            linear, first = self._linear(joint), 0
            for name in names:
                part = self._linear(name)
                rows = part.out_features
                part.weight = _frozen(linear.weight.narrow(0, first, rows))
                part.bias = _frozen(linear.bias.narrow(0, first, rows))
                first += rows

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        """Move or convert the block; each part would get a copy of its own."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self._is_joined:
            self.share_weights()
        return self

    def own_linears(self) -> Iterator[tuple[str, nn.Linear]]:
        """Yield the linears that own their weight: the joint ones and not their parts."""
        parts = {name for names in self.PARTS.values() for name in names}
        for name, layer in self.named_modules():
            if isinstance(layer, nn.Linear) and name not in parts:
                yield name, layer

    def _linear(self, name: str) -> nn.Linear:
        linear: Any = self.get_submodule(name)
        return linear  # type: ignore[no-any-return]

    def _products(self, joint: str, tokens: torch.Tensor) -> Sequence[torch.Tensor]:
        """Return what each part of `joint` makes of the tokens."""
        parts = [self._linear(name) for name in self.PARTS[joint]]
        if all(isinstance(part, nn.Linear) for part in parts):
            widths = [part.out_features for part in parts]
            return torch.split(self._linear(joint)(tokens), widths, dim=-1)
        return [part(tokens) for part in parts]  # PEFT puts a class of its own around a linear


class DoubleBlock(Block, FluxTransformerBlock):  # type: ignore[misc]
    """A block in which text and image have weights of their own and meet in attention."""

    PARTS: ClassVar[dict[str, tuple[str, ...]]] = {
        "attn.to_qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
        "attn.to_added_qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    }
    norm1: Any
    norm1_context: Any
    norm2: Any
    norm2_context: Any
    ff: Any
    ff_context: Any

    def modulation(self, conditioning: torch.Tensor) -> Modulation:
        """Return six for the image and six for the text."""
        return (
            *parted(self.norm1.linear(conditioning), 6),
            *parted(self.norm1_context.linear(conditioning), 6),
        )

    def forward(
        self,
        image: torch.Tensor,
        text: torch.Tensor,
        modulation: Modulation,
        rotary: Rotary,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return image and text, each 1 x tokens x width.

        Args:
            image: 1 x tokens x width, those of the result before those of the reference.
            text: 1 x tokens x width.
            modulation: Of this step.
            rotary: Of text and image, in this order.
        """
        image_shift, image_scale, image_gate, *image_network = modulation[:6]
        text_shift, text_scale, text_gate, *text_network = modulation[6:]
        attended = self._attention(
            modulated(self.norm1.norm(image), image_shift, image_scale),
            modulated(self.norm1_context.norm(text), text_shift, text_scale),
            rotary,
        )
        of_text, of_image = torch.split(attended, [text.shape[1], image.shape[1]], dim=1)
        image = image + image_gate * self.attn.to_out[0](of_image)
        text = text + text_gate * self.attn.to_add_out(of_text)
        return (
            _through(self.norm2, self.ff, image, image_network),
            _through(self.norm2_context, self.ff_context, text, text_network),
        )

    def _attention(self, image: torch.Tensor, text: torch.Tensor, rotary: Rotary) -> torch.Tensor:
        """Return 1 x tokens x width, text before image."""
        attn = self.attn
        of_text, of_image = _parted_rotary(rotary, [text.shape[1], image.shape[1]])
        query, key, value = _heads(self._products("attn.to_qkv", image), attn)
        added = _heads(self._products("attn.to_added_qkv", text), attn)
        # Rotated before they are joined, so that one kernel norms, rotates and joins.
        queries = (
            _rotated(attn.norm_added_q(added[0]), of_text),
            _rotated(attn.norm_q(query), of_image),
        )
        keys = (
            _rotated(attn.norm_added_k(added[1]), of_text),
            _rotated(attn.norm_k(key), of_image),
        )
        joint = (torch.cat(both, dim=1) for both in (queries, keys, (added[2], value)))
        return self.attend(*joint).flatten(2)


class SingleBlock(Block, FluxSingleTransformerBlock):  # type: ignore[misc]
    """A block in which text and image are one sequence, attention and network side by side."""

    PARTS: ClassVar[dict[str, tuple[str, ...]]] = {
        "proj_in": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
    }
    norm: Any
    act_mlp: Any
    proj_out: Any

    def modulation(self, conditioning: torch.Tensor) -> Modulation:
        """Return three: what shifts, scales and gates the block."""
        return parted(self.norm.linear(conditioning), 3)

    def forward(self, tokens: torch.Tensor, modulation: Modulation, rotary: Rotary) -> torch.Tensor:
        """Return 1 x tokens x width.

        Args:
            tokens: 1 x tokens x width, text before image.
            modulation: Of this step.
            rotary: Of the same tokens.
        """
        shift, scale, gate = modulation
        entering = modulated(self.norm.norm(tokens), shift, scale)
        *projected, hidden = self._products("proj_in", entering)
        query, key, value = _heads(projected, self.attn)
        query = _rotated(self.attn.norm_q(query), rotary)
        key = _rotated(self.attn.norm_k(key), rotary)
        attended = self.attend(query, key, value).flatten(2)
        joined = torch.cat([attended, self.act_mlp(hidden)], dim=-1)
        return tokens + gate * self.proj_out(joined)  # type: ignore[no-any-return]


def _joined(parts: Sequence[nn.Linear]) -> nn.Linear:
    with torch.device("meta"):
        joint = nn.Linear(parts[0].in_features, sum(part.out_features for part in parts))
    joint.weight = _frozen(torch.cat([part.weight for part in parts]))
    joint.bias = _frozen(torch.cat([part.bias for part in parts]))
    return joint


def _frozen(weight: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(weight, requires_grad=False)


def parted(modulation: torch.Tensor, parts: int) -> Modulation:
    """Part modulation of steps x (parts * width)."""
    return modulation.unsqueeze(1).chunk(parts, dim=-1)


def modulated(tokens: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Scale and shift normed tokens, 1 x tokens x width."""
    return tokens * (1 + scale) + shift


def _through(
    norm: nn.Module, network: nn.Module, tokens: torch.Tensor, modulation: Sequence[torch.Tensor]
) -> torch.Tensor:
    shift, scale, gate = modulation
    added: torch.Tensor = network(modulated(norm(tokens), shift, scale))
    return tokens + gate * added


def _heads(projected: Sequence[torch.Tensor], attention: Any) -> list[torch.Tensor]:  # noqa: ANN401
    """Return each as 1 x tokens x heads x head width, without a copy."""
    return [each.view(*each.shape[:2], -1, attention.head_dim) for each in projected]


def _parted_rotary(rotary: Rotary, tokens: list[int]) -> list[Rotary]:
    cosines, sines = (torch.split(each, tokens) for each in rotary)
    return list(zip(cosines, sines, strict=True))


def _rotated(heads: torch.Tensor, rotary: Rotary) -> torch.Tensor:
    return apply_rotary_emb(heads, rotary, sequence_dim=1)  # type: ignore[no-any-return]
