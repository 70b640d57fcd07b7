"""Computes the blocks of FLUX's transformer in fewer kernels than diffusers.

The classes extend those of diffusers and replace only the forward pass. They have the same weights,
and their results differ by rounding only.

- Single blocks take text and image as one sequence. diffusers joins and splits the two in each of
  the 38 single blocks.
- Linears that read the same tokens are one product (`kontext.inference.joint_projections`), for
  which the tokens are quantised once.
- Attention reads batch x tokens x heads x head width, as the product returns it.
- Modulation is an argument, because it is the same for all tokens.

Does not know steps, precisions or plans.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_flux import (
    FluxSingleTransformerBlock,
    FluxTransformerBlock,
)
from torch import nn

from kontext.inference.attention import Attend
from kontext.inference.joint_projections import JointProjections

Rotary = tuple[torch.Tensor, torch.Tensor]
"""The cosines and sines of the rotary embedding, each tokens x head width, float32."""

Modulation = tuple[torch.Tensor, ...]
"""The shifts, scales and gates of the tokens, each steps x 1 x width."""


class Block(JointProjections):
    """A transformer block; `attend` is its attention kernel."""

    attend: Attend
    attn: Any


class DoubleBlock(Block, FluxTransformerBlock):  # type: ignore[misc]
    """A block in which text and image have separate weights and share the attention."""

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
        """Return shift, scale and gate of attention and of network, first the image's six."""
        return (
            *split_modulation(self.norm1.linear(conditioning), 6),
            *split_modulation(self.norm1_context.linear(conditioning), 6),
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
            image: The image tokens, 1 x tokens x width, the result before the reference.
            text: The text tokens, 1 x tokens x width.
            modulation: The modulation of this step.
            rotary: The rotary embedding of the text, then of the image.
        """
        image_shift, image_scale, image_gate, *image_network = modulation[:6]
        text_shift, text_scale, text_gate, *text_network = modulation[6:]
        attended = self._attention(
            modulate(self.norm1.norm(image), image_shift, image_scale),
            modulate(self.norm1_context.norm(text), text_shift, text_scale),
            rotary,
        )
        of_text, of_image = torch.split(attended, [text.shape[1], image.shape[1]], dim=1)
        image = image + image_gate * self.attn.to_out[0](of_image)
        text = text + text_gate * self.attn.to_add_out(of_text)
        return (
            _feed_forward(self.norm2, self.ff, image, image_network),
            _feed_forward(self.norm2_context, self.ff_context, text, text_network),
        )

    def _attention(self, image: torch.Tensor, text: torch.Tensor, rotary: Rotary) -> torch.Tensor:
        """Return 1 x tokens x width, text before image."""
        attn = self.attn
        of_text, of_image = _split_rotary(rotary, [text.shape[1], image.shape[1]])
        query, key, value = _split_heads(self._project("attn.to_qkv", image), attn)
        added = _split_heads(self._project("attn.to_added_qkv", text), attn)
        # Rotated before they are joined, so that one kernel normalises, rotates and joins.
        queries = (
            _rotate(attn.norm_added_q(added[0]), of_text),
            _rotate(attn.norm_q(query), of_image),
        )
        keys = (
            _rotate(attn.norm_added_k(added[1]), of_text),
            _rotate(attn.norm_k(key), of_image),
        )
        joint = (torch.cat(both, dim=1) for both in (queries, keys, (added[2], value)))
        return self.attend(*joint).flatten(2)


class SingleBlock(Block, FluxSingleTransformerBlock):  # type: ignore[misc]
    """A block in which text and image are one sequence; attention and network run in parallel."""

    PARTS: ClassVar[dict[str, tuple[str, ...]]] = {
        "proj_in": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
    }
    norm: Any
    act_mlp: Any
    proj_out: Any

    def modulation(self, conditioning: torch.Tensor) -> Modulation:
        """Return the shift, scale and gate of the block."""
        return split_modulation(self.norm.linear(conditioning), 3)

    def forward(self, tokens: torch.Tensor, modulation: Modulation, rotary: Rotary) -> torch.Tensor:
        """Return 1 x tokens x width.

        Args:
            tokens: The tokens, 1 x tokens x width, text before image.
            modulation: The modulation of this step.
            rotary: The rotary embedding of the tokens.
        """
        shift, scale, gate = modulation
        entering = modulate(self.norm.norm(tokens), shift, scale)
        *projected, hidden = self._project("proj_in", entering)
        query, key, value = _split_heads(projected, self.attn)
        query = _rotate(self.attn.norm_q(query), rotary)
        key = _rotate(self.attn.norm_k(key), rotary)
        attended = self.attend(query, key, value).flatten(2)
        joined = torch.cat([attended, self.act_mlp(hidden)], dim=-1)
        return tokens + gate * self.proj_out(joined)  # type: ignore[no-any-return]


def split_modulation(modulation: torch.Tensor, parts: int) -> Modulation:
    """Split modulation of steps x (parts * width) into `parts`, each steps x 1 x width."""
    return modulation.unsqueeze(1).chunk(parts, dim=-1)


def modulate(tokens: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Scale and shift normalised tokens, 1 x tokens x width."""
    return tokens * (1 + scale) + shift


def _feed_forward(
    norm: nn.Module, network: nn.Module, tokens: torch.Tensor, modulation: Sequence[torch.Tensor]
) -> torch.Tensor:
    shift, scale, gate = modulation
    added: torch.Tensor = network(modulate(norm(tokens), shift, scale))
    return tokens + gate * added


def _split_heads(projected: Sequence[torch.Tensor], attention: Any) -> list[torch.Tensor]:  # noqa: ANN401
    """Return views of 1 x tokens x heads x head width."""
    return [each.view(*each.shape[:2], -1, attention.head_dim) for each in projected]


def _split_rotary(rotary: Rotary, tokens: list[int]) -> list[Rotary]:
    cosines, sines = (torch.split(each, tokens) for each in rotary)
    return list(zip(cosines, sines, strict=True))


def _rotate(heads: torch.Tensor, rotary: Rotary) -> torch.Tensor:
    return apply_rotary_emb(heads, rotary, sequence_dim=1)  # type: ignore[no-any-return]
