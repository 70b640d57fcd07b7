"""Run one edit with the project's editor and with the reference's own functions."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from diffusers import FluxKontextPipeline
from PIL import Image

from kontext.inference import acceleration, autoencoder
from kontext.inference.edit import Edit
from kontext.inference.editor import Editor
from kontext.inference.model import Model
from kontext.inference.plan import EXACT

from .checkout import Reference

Fault = Literal["reference ids on another axis", "mu counts the reference", "guidance off by 0.25"]
"""A deliberate fault in the reference's path, to show that the comparison would notice it."""


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one side.

    Attributes:
        latents: Final latents, packed: 1 x tokens x 64, float32.
        pixels: Decoded pixels: 3 x height x width, float32, -1 to 1 before clipping.
    """

    latents: torch.Tensor
    pixels: torch.Tensor


class Ours:
    """The project's path, observed at the scheduler and at the decoder."""

    def __init__(self, pipeline: FluxKontextPipeline) -> None:
        acceleration.prepare(pipeline, EXACT)
        autoencoder.postprocess_in_float32(pipeline)
        self._editor = Editor(Model(pipeline, "reference check", "none"), true_cfg_scale=4.0)
        self._seen: dict[str, torch.Tensor] = {}
        self._step = pipeline.scheduler.step
        pipeline.scheduler.step = self._watched_step
        pipeline.vae.decoder.register_forward_hook(self._watch_decoder)

    def edit(self, edit: Edit) -> tuple[Result, Image.Image]:
        """Run an edit, and return what the pipeline computed and the delivered image."""
        delivered = self._editor.edit(edit, lambda _step: None)
        return Result(self._seen["latents"], self._seen["pixels"]), delivered

    def _watched_step(self, *inputs: Any, **named: Any) -> Any:  # noqa: ANN401
        output = self._step(*inputs, **named)
        self._seen["latents"] = output[0].float()
        return output

    def _watch_decoder(self, _module: object, _inputs: object, output: torch.Tensor) -> None:
        self._seen["pixels"] = output[0].float()


class Theirs:
    """The reference's path, with its autoencoder in float32 as in its own program.

    Args:
        reference: The reference's modules.
        flux: The reference's transformer, in the precision of the comparison.
        autoencoder: The reference's autoencoder.
        text: The text encoders' outputs for both sides: tokens, and the pooled vector.
    """

    def __init__(
        self,
        reference: Reference,
        flux: Any,  # noqa: ANN401
        autoencoder: Any,  # noqa: ANN401
        text: tuple[torch.Tensor, torch.Tensor],
    ) -> None:
        self._sampling = reference.sampling
        self._flux = flux
        self._autoencoder = autoencoder
        self._dtype = next(flux.parameters()).dtype
        self._text = [part.to(self._dtype) for part in text]

    @torch.inference_mode()
    def edit(self, edit: Edit, noise_dtype: torch.dtype, fault: Fault | None = None) -> Result:
        """Run an edit whose size is on the 16-pixel grid.

        Args:
            edit: The edit to run.
            noise_dtype: Precision in which the noise is drawn.
            fault: A deliberate fault, or None.
        """
        assert edit.reference is not None  # noqa: S101 - the reference code is compared on edits
        height, width = edit.size.height, edit.size.width
        noise = self._sampling.get_noise(
            1, height, width, torch.device("cpu"), noise_dtype, edit.seed
        )
        inputs = self._packed(noise.to(self._dtype))
        condition = self._reference(edit.reference, fault)
        counted = condition["img"].shape[1] if fault == "mu counts the reference" else 0
        latents = self._sampling.denoise(
            self._flux,
            **inputs,
            timesteps=self._sampling.get_schedule(
                edit.request.num_inference_steps, inputs["img"].shape[1] + counted
            ),
            guidance=edit.request.guidance + (0.25 if fault == "guidance off by 0.25" else 0),
            img_cond_seq=condition["img"],
            img_cond_seq_ids=condition["img_ids"],
        ).float()
        unpacked = self._sampling.unpack(latents, height, width)
        return Result(latents, self._autoencoder.decode(unpacked)[0])

    def _packed(self, latents: torch.Tensor) -> dict[str, torch.Tensor]:
        tokens, vector = self._text
        packed: dict[str, torch.Tensor] = self._sampling.prepare(
            lambda _: tokens, lambda _: vector, latents, "the prompt is encoded already"
        )
        return packed

    def _reference(self, image: Image.Image, fault: Fault | None) -> dict[str, torch.Tensor]:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1
        condition = self._packed(self._autoencoder.encode(pixels).to(self._dtype))
        axis = 1 if fault == "reference ids on another axis" else 0
        condition["img_ids"][..., axis] += 1
        return condition
