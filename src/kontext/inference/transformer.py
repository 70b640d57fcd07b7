"""Computes FLUX's transformer; what the steps of an edit share is computed once.

The steps share everything that does not depend on the latents: the modulation of all steps, the
embedded prompt and the rotary embedding. The transformer takes the arguments that
`FluxKontextPipeline` passes; ControlNet and IP-Adapter are not supported. Does not know precisions
or plans.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, Protocol

import torch
from diffusers import FluxTransformer2DModel
from torch.nn import functional

from kontext.inference.blocks import (
    DoubleBlock,
    Modulation,
    Rotary,
    SingleBlock,
    modulate,
    split_modulation,
)


class Scheduler(Protocol):
    """The part of a diffusers scheduler that the transformer reads."""

    timesteps: torch.Tensor

    @property
    def step_index(self) -> int | None:
        """The index of the next step, from 0; None before the first step."""


class _Constants:
    """The tensors that the steps of one edit share, for one prompt.

    A compiled block would be compiled again for an input that is a view instead of a tensor that
    owns its memory, so all inputs of a block own theirs.

    Args:
        text: The embedded prompt, 1 x tokens x width.
        rotary: The rotary embedding of text and image.
        modulation: The modulation of all steps, for each block and then for the output.
    """

    def __init__(
        self, text: torch.Tensor, rotary: Rotary, modulation: Sequence[Modulation]
    ) -> None:
        self.text = text.clone()
        self.rotary = rotary
        self._all_steps = modulation
        self._one_step = [
            tuple(each.new_empty(1, *each.shape[1:]) for each in block) for block in modulation
        ]

    def modulation(self, step: int) -> Sequence[Modulation]:
        """Return the modulation of one step, 1 x 1 x width each; valid until the next call."""
        torch._foreach_copy_(
            list(chain.from_iterable(self._one_step)),
            [each.narrow(0, step, 1) for each in chain.from_iterable(self._all_steps)],
        )
        return self._one_step


class Transformer(FluxTransformer2DModel):  # type: ignore[misc]
    """FLUX's transformer with the blocks of `kontext.inference.blocks`."""

    _scheduler: Scheduler | None = None
    _constants: dict[int, tuple[torch.Tensor, _Constants]]

    @contextmanager
    def one_edit(self, scheduler: Scheduler) -> Iterator[None]:
        """Treat all calls within as steps of one edit, and compute what they share only once.

        Args:
            scheduler: The edit's scheduler; its timesteps must be set before the first call.
        """
        self._scheduler, self._constants = scheduler, {}
        try:
            yield
        finally:
            self._scheduler = None
            del self._constants

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        pooled_projections: torch.Tensor,
        timestep: torch.Tensor,
        img_ids: torch.Tensor,
        txt_ids: torch.Tensor,
        guidance: torch.Tensor,
        **_: Any,  # noqa: ANN401
    ) -> tuple[torch.Tensor]:
        """Return the velocity, 1 x tokens x channels, in a tuple, as diffusers does.

        Args:
            hidden_states: The packed latents, 1 x tokens x channels.
            encoder_hidden_states: T5's encoding of the prompt, 1 x tokens x width.
            pooled_projections: CLIP's encoding of the prompt, 1 x width.
            timestep: The timestep, 0 to 1, shape 1; within `one_edit` the scheduler's is used.
            img_ids: The positions of the image tokens, tokens x 3.
            txt_ids: The positions of the text tokens, tokens x 3.
            guidance: The guidance scale, shape 1.
            **_: Arguments that the pipeline passes without effect.
        """
        given = txt_ids, img_ids, encoder_hidden_states, pooled_projections, guidance
        if self._scheduler is None:
            shared, step = self._compute(timestep, *given), 0
        else:
            shared, step = self._shared(self._scheduler, *given), self._scheduler.step_index or 0
        image = self.x_embedder(hidden_states).clone()  # a view would be compiled again
        return (self._denoise(image, shared, shared.modulation(step)),)

    def _denoise(
        self, image: torch.Tensor, shared: _Constants, modulation: Sequence[Modulation]
    ) -> torch.Tensor:
        text, of_block = shared.text, iter(modulation)
        for block in self.transformer_blocks:
            image, text = block(image, text, next(of_block), shared.rotary)
        tokens = torch.cat([text, image], dim=1)
        for block in self.single_transformer_blocks:
            tokens = block(tokens, next(of_block), shared.rotary)
        scale, shift = next(of_block)
        _, image = torch.split(tokens, [text.shape[1], image.shape[1]], dim=1)
        normalised = self.norm_out.norm(image)
        return self.proj_out(modulate(normalised, shift, scale))  # type: ignore[no-any-return]

    def _shared(
        self,
        scheduler: Scheduler,
        text_positions: torch.Tensor,
        image_positions: torch.Tensor,
        encoded: torch.Tensor,
        pooled: torch.Tensor,
        guidance: torch.Tensor,
    ) -> _Constants:
        """Return the tensors of this prompt, computed at its first step.

        With true classifier-free guidance each step is called for two prompts, which are told apart
        by the identity of their pooled encoding.
        """
        if id(pooled) not in self._constants:
            # The same arithmetic as the pipeline's for one step.
            timesteps = scheduler.timesteps.to(encoded.dtype) / 1000
            positions = text_positions, image_positions
            shared = self._compute(timesteps, *positions, encoded, pooled, guidance)
            self._constants[id(pooled)] = pooled, shared  # kept, so that its id is not reused
        return self._constants[id(pooled)][1]

    def _compute(
        self,
        timesteps: torch.Tensor,
        text_positions: torch.Tensor,
        image_positions: torch.Tensor,
        encoded: torch.Tensor,
        pooled: torch.Tensor,
        guidance: torch.Tensor,
    ) -> _Constants:
        steps, dtype = len(timesteps), encoded.dtype
        embedded = self.time_text_embed(
            timesteps.to(dtype) * 1000,
            guidance.to(dtype).expand(steps) * 1000,
            pooled.expand(steps, -1),
        )
        conditioning = functional.silu(embedded)
        blocks = *self.transformer_blocks, *self.single_transformer_blocks
        modulation = [block.modulation(conditioning) for block in blocks]
        modulation.append(split_modulation(self.norm_out.linear(conditioning), 2))
        rotary = self.pos_embed(torch.cat([text_positions, image_positions]))
        return _Constants(self.context_embedder(encoded), rotary, modulation)


def convert(transformer: FluxTransformer2DModel) -> None:
    """Turn diffusers' transformer and its blocks into the classes of this package, in place.

    Weights and their names do not change. Before its first call, each block needs
    `join_projections` and an `attend`.
    """
    transformer.__class__ = Transformer
    for blocks, kind in (
        (transformer.transformer_blocks, DoubleBlock),
        (transformer.single_transformer_blocks, SingleBlock),
    ):
        for block in blocks:
            block.__class__ = kind
