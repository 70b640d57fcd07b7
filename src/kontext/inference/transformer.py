"""FLUX's transformer of our blocks: what the steps of an edit share is computed once.

That is what depends on the timestep, guidance, prompt and positions alone: modulation of all steps,
the embedded prompt, the rotary embedding. Takes what `FluxKontextPipeline` passes, no ControlNet
and no IP-Adapter. Knows nothing of precisions or plans.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, Protocol

import torch
from diffusers import FluxTransformer2DModel
from torch.nn import functional

from kontext.inference.blocks import DoubleBlock, Modulation, Rotary, SingleBlock, modulated, parted


class Scheduler(Protocol):
    """The schedule of an edit; diffusers' own."""

    timesteps: torch.Tensor

    @property
    def step_index(self) -> int | None:
        """The step that comes next, counted from 0; None before the first."""


class _Constants:
    """What the steps of one edit share in one branch of guidance.

    The compiler would compile a block once for views and once for tensors that own their memory,
    so what goes into one always owns it.

    Args:
        text: The embedded prompt, 1 x tokens x width.
        rotary: Of text and image.
        modulation: Of each block, then of the output; of all steps.
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
        """Return that of one step, 1 x 1 x width each; valid until the next call."""
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
        """Within, what the steps share is computed at the first; all calls belong to one edit.

        Args:
            scheduler: Whose timesteps are set before the first call.
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
        """Return the velocity, as diffusers' own does; outside `one_edit` of any timestep.

        Args:
            hidden_states: Packed latents, 1 x tokens x channels.
            encoder_hidden_states: The prompt as T5 encodes it, 1 x tokens x its width.
            pooled_projections: As CLIP does, 1 x its width.
            timestep: From 0 to 1, one.
            img_ids: Positions of the image's tokens, tokens x 3.
            txt_ids: Those of the text's.
            guidance: The guidance scale, one.
        """
        given = txt_ids, img_ids, encoder_hidden_states, pooled_projections, guidance
        if self._scheduler is None:
            known, step = self._compute(timestep, *given), 0
        else:
            known, step = self._known(self._scheduler, *given), self._scheduler.step_index or 0
        image = self.x_embedder(hidden_states).clone()  # as `_Constants` says
        return (self._denoise(image, known, known.modulation(step)),)

    def _denoise(
        self, image: torch.Tensor, known: _Constants, modulation: Sequence[Modulation]
    ) -> torch.Tensor:
        text, of_block = known.text, iter(modulation)
        for block in self.transformer_blocks:
            image, text = block(image, text, next(of_block), known.rotary)
        tokens = torch.cat([text, image], dim=1)
        for block in self.single_transformer_blocks:
            tokens = block(tokens, next(of_block), known.rotary)
        scale, shift = next(of_block)
        _, image = torch.split(tokens, [text.shape[1], image.shape[1]], dim=1)
        normed = self.norm_out.norm(image)
        return self.proj_out(modulated(normed, shift, scale))  # type: ignore[no-any-return]

    def _known(
        self,
        scheduler: Scheduler,
        text_positions: torch.Tensor,
        image_positions: torch.Tensor,
        encoded: torch.Tensor,
        pooled: torch.Tensor,
        guidance: torch.Tensor,
    ) -> _Constants:
        """Return what was computed at the first step of this branch, told by its pooled prompt."""
        if id(pooled) not in self._constants:
            # As the pipeline hands them over, one by one.
            timesteps = scheduler.timesteps.to(encoded.dtype) / 1000
            positions = text_positions, image_positions
            known = self._compute(timesteps, *positions, encoded, pooled, guidance)
            self._constants[id(pooled)] = pooled, known  # kept, so that no other gets its id
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
        modulation.append(parted(self.norm_out.linear(conditioning), 2))
        rotary = self.pos_embed(torch.cat([text_positions, image_positions]))
        return _Constants(self.context_embedder(encoded), rotary, modulation)


def convert(transformer: FluxTransformer2DModel) -> None:
    """Give the loaded `transformer` and its blocks our classes, in place.

    Weights and names stay. Each block then needs `join_projections` and its `attend`.
    """
    transformer.__class__ = Transformer
    for blocks, kind in (
        (transformer.transformer_blocks, DoubleBlock),
        (transformer.single_transformer_blocks, SingleBlock),
    ):
        for block in blocks:
            block.__class__ = kind
