"""Computes in float32 what would lose accuracy in bfloat16 around the pipeline's autoencoder.

Knows pixels and latents; does not know prompts, steps or memory.
"""

import copy

import torch
from diffusers import AutoencoderKL, FluxKontextPipeline
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from kontext.contract.size import GRID


class Float32ImageProcessor(VaeImageProcessor):  # type: ignore[misc]  # diffusers is not typed
    """Scales decoded images to 0..1 in float32.

    diffusers does it in bfloat16, which has no more than 128 values between 0.5 and 1.
    """

    def postprocess(self, image: torch.Tensor, output_type: str = "pt") -> torch.Tensor:
        """Return an image of B x 3 x H x W, -1 to 1, scaled to 0 to 1, in float32."""
        scaled: torch.Tensor = super().postprocess(image.float(), output_type=output_type)
        return scaled


def postprocess_in_float32(pipeline: FluxKontextPipeline) -> None:
    """Replace the pipeline's image processor by one that scales decoded images in float32."""
    pipeline.image_processor = Float32ImageProcessor(GRID)


class ReferenceEncoder:
    """Encodes references with a float32 copy of the pipeline's encoder.

    Black Forest Labs' own code encodes in float32. In bfloat16 the latents were off by 1.9 % (norm
    of the error; FLUX's shapes, random weights, 256*256), and by 0.17 % when only the result was
    rounded. cuDNN's convolutions may still use TF32, which is torch's default.

    Args:
        pipeline: The pipeline, on its device; the copy tiles if its autoencoder does.
    """

    def __init__(self, pipeline: FluxKontextPipeline) -> None:
        self._vae = _copy_encoder(pipeline.vae)
        self._processor = pipeline.image_processor

    @torch.no_grad()
    def encode(self, reference: Image.Image) -> torch.Tensor:
        """Return the latents that the pipeline expects: 1 x 16 x H / 8 x W / 8, float32.

        Args:
            reference: The reference, RGB, both sides multiples of 16.
        """
        pixels = self._processor.preprocess(reference).to(self._vae.device)
        latents: torch.Tensor = self._vae.encode(pixels).latent_dist.mode()
        return latents.sub(self._vae.config.shift_factor).mul(self._vae.config.scaling_factor)


def _copy_encoder(vae: AutoencoderKL) -> AutoencoderKL:
    """Return a float32 copy of the autoencoder without its decoder."""
    part = copy.deepcopy(vae)
    part.decoder = None
    encoder: AutoencoderKL = part.float()
    return encoder
