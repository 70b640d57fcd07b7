"""The parts of the stand-in that are set and not trained."""

import json

import flux_model
import pytest
import torch
from stand_in import autoencoder, images, instructions, phrasings, text
from stand_in.layout import ANGLES, MAX_PLACES, SIZES

from kontext.inference import stand_in


def test_the_shipped_weights_have_the_sizes_that_training_builds() -> None:
    config = json.loads((stand_in.WEIGHTS / "transformer/config.json").read_text())
    built = flux_model.transformer(SIZES.transformer, SIZES.clip.width, SIZES.t5.width).config

    assert config.keys() >= {"num_layers", "axes_dims_rope"}
    saved = {name: value for name, value in config.items() if not name.startswith("_")}
    assert saved == json.loads(json.dumps({name: built[name] for name in saved}))


def test_the_encoder_takes_the_mean_of_a_plain_image_as_its_first_cosine() -> None:
    """All other cosines of brightness are zero, as in JPEG."""
    grey = torch.full((1, 3, 32, 32), 0.5)
    with torch.no_grad():
        latents = autoencoder.autoencoder().encode(grey).latent_dist.mode()[0]

    assert latents.shape == (16, 4, 4)
    assert (latents[0] > 0.5).all()
    assert latents[1:10].abs().max() < 1e-2


def test_t5_numbers_the_paddings_whatever_the_prompt_is() -> None:
    """The first codes of a padding are the cosine and sine of its number times the first angle."""
    tokenizer = text.t5_tokenizer(["make", "it", "sepia"])
    model = text.t5(len(tokenizer))
    prompts = torch.tensor([[4, 5, 1] + [0] * MAX_PLACES, [6, 1, 0] + [0] * MAX_PLACES])
    with torch.no_grad():
        states = model(prompts).last_hidden_state
    numbers = torch.arange(MAX_PLACES)
    paddings = torch.stack([states[0, 3:], states[1, 2:-1]])

    assert torch.allclose(paddings[0], paddings[1], atol=1e-3)
    codes = paddings[0, :, 8:10]
    wanted = torch.stack([torch.cos(numbers * ANGLES[0]), torch.sin(numbers * ANGLES[0])], 1)
    angle = (codes * wanted).sum(1) / (codes.norm(dim=1) * wanted.norm(dim=1))
    assert (angle > 0.99).all()


def test_clip_has_a_token_for_every_word_of_the_phrasings() -> None:
    """A word that is none of them is spelt."""
    tokenizer = text.clip_tokenizer(phrasings.words())

    assert len(tokenizer.tokenize("sepia")) == 1
    assert len(tokenizer.tokenize("zyzzyva")) > 1


@pytest.mark.parametrize("name", instructions.NAMES)
def test_every_edit_keeps_shape_and_range_and_changes_the_image(name: str) -> None:
    batch = images.TrainingImages(0).batch(2, 64, 48)
    edited = instructions.EDITS[name](batch)

    assert edited.shape == batch.shape
    assert 0 <= edited.min() <= edited.max() <= 1
    assert (edited - batch).abs().mean() > 0.01


def test_the_same_seed_draws_the_same_images() -> None:
    first, second, other = (images.TrainingImages(seed).batch(2, 32, 32) for seed in (0, 0, 1))

    assert torch.equal(first, second)
    assert not torch.equal(first, other)
