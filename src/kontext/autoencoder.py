"""Around the autoencoder: where float32 matters although the pipeline computes in bfloat16.

Knows pixels and latents, nothing of prompts, steps or devices.
"""

import torch
from diffusers.image_processor import VaeImageProcessor


class Float32ImageProcessor(VaeImageProcessor):  # type: ignore[misc]  # diffusers is not typed
    """Denormalises what was decoded in float32.

    The pipeline would do it in bfloat16, which has no more than 128 values between 0.5 and 1.
    """

    def postprocess(self, image: torch.Tensor, output_type: str = "pt") -> torch.Tensor:
        """Return B x 3 x H x W, 0 to 1, float32, of what was decoded, -1 to 1."""
        denormalised: torch.Tensor = super().postprocess(image.float(), output_type=output_type)
        return denormalised
