"""The float32 computations around the autoencoder, on the stand-in's pipeline."""

import pytest
import torch
from diffusers import FluxKontextPipeline
from diffusers.image_processor import VaeImageProcessor

from kontext.inference import model
from kontext.inference.autoencoder import Float32ImageProcessor, ReferenceEncoder
from tests.support.edits import noise_image

DECODED = torch.linspace(-1, 1, 3 * 32 * 32).reshape(1, 3, 32, 32).bfloat16()


@pytest.fixture
def pipeline() -> FluxKontextPipeline:
    """The stand-in, as it is loaded."""
    return model.load_stand_in().pipeline


def test_a_loaded_pipeline_scales_decoded_images_in_float32(pipeline: FluxKontextPipeline) -> None:
    """Exactly, where diffusers' own processor rounds to bfloat16."""
    expected = (DECODED.float() + 1) / 2
    plain = VaeImageProcessor(pipeline.image_processor.config.vae_scale_factor)

    assert isinstance(pipeline.image_processor, Float32ImageProcessor)
    assert torch.equal(pipeline.image_processor.postprocess(DECODED), expected)
    assert not torch.equal(plain.postprocess(DECODED, output_type="pt").float(), expected)


def test_values_beyond_the_range_are_clipped(pipeline: FluxKontextPipeline) -> None:
    """A decoder may overshoot."""
    scaled = pipeline.image_processor.postprocess(3 * DECODED)

    assert (scaled.min(), scaled.max()) == (0, 1)


def test_the_reference_encoder_leaves_the_pipelines_autoencoder_alone(
    pipeline: FluxKontextPipeline,
) -> None:
    """It converts a copy; the pipeline still decodes, in its own precision."""
    pipeline.vae.to(torch.bfloat16)
    latents = ReferenceEncoder(pipeline).encode(noise_image(64, 48))

    assert (latents.shape, latents.dtype) == ((1, 16, 6, 8), torch.float32)
    assert pipeline.vae.dtype is torch.bfloat16
    assert pipeline.vae.decoder is not None
