"""The pipelines with random weights that tests and benchmarks use, in their different sizes."""

from collections.abc import Callable

import boot_checkpoint
import flux_model
import pytest
import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from flux_sizes import FULL, REDUCED, TINY, Sizes


def parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def on_meta(build: Callable[[], torch.nn.Module]) -> torch.nn.Module:
    """Build a network without memory for its weights."""
    with torch.device("meta"):
        return build()


def transformer(sizes: Sizes) -> FluxTransformer2DModel:
    return flux_model.transformer(sizes.transformer, sizes.clip.width, sizes.t5.width)


def test_the_weights_are_the_same_every_time() -> None:
    """The caller's random numbers neither change them nor are changed."""
    first = flux_model.pipeline()
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    second = flux_model.pipeline()

    assert torch.equal(torch.rand(3), expected)
    for name in "transformer", "vae", "text_encoder", "text_encoder_2":
        weights = getattr(first, name).state_dict()
        others = getattr(second, name).state_dict()
        assert all(torch.equal(weights[key], others[key]) for key in weights)


def test_a_pipeline_is_built_in_the_precision_asked_for() -> None:
    """The default precision of torch is restored afterwards."""
    built = flux_model.pipeline(TINY, torch.bfloat16)

    assert {part.dtype for part in (built.transformer, built.vae)} == {torch.bfloat16}
    assert torch.get_default_dtype() == torch.float32


def test_the_full_transformer_is_the_one_of_diffusers_defaults() -> None:
    """Its defaults are FLUX.1's, except that they have no guidance embedding."""
    ours = on_meta(lambda: transformer(FULL))
    theirs = on_meta(lambda: FluxTransformer2DModel(guidance_embeds=True))

    shapes = {name: weight.shape for name, weight in ours.state_dict().items()}
    assert shapes == {name: weight.shape for name, weight in theirs.state_dict().items()}


@pytest.mark.parametrize("sizes", [FULL, REDUCED, TINY])
def test_every_autoencoder_makes_16_channels_an_eighth_as_large(sizes: Sizes) -> None:
    with torch.device("meta"):
        autoencoder: AutoencoderKL = flux_model.autoencoder(sizes.autoencoder)
        latents = autoencoder.encode(torch.empty(1, 3, 64, 32)).latent_dist.mode()

    assert latents.shape == (1, 16, 8, 4)


def test_a_reduced_model_has_the_full_widths() -> None:
    assert REDUCED.transformer.width == FULL.transformer.width == 3072
    assert REDUCED.t5.width == FULL.t5.width
    assert REDUCED.autoencoder == FULL.autoencoder


@pytest.mark.parametrize("gigabytes", [2, 6])
def test_a_boot_checkpoint_has_about_the_size_asked_for(gigabytes: float) -> None:
    """Of it 70 % are the transformer's, as in FLUX.1 Kontext [dev]."""
    sizes = boot_checkpoint.sizes(gigabytes)
    share = 2 * parameters(on_meta(lambda: transformer(sizes))) / (1e9 * gigabytes)
    t5_share = 2 * parameters(on_meta(lambda: flux_model.t5(sizes.t5, 100))) / (1e9 * gigabytes)

    assert 0.5 < share < 0.75
    assert 0.2 < t5_share < 0.3
