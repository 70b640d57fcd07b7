"""The safety checker, with tiny random models of the real classes."""

from pathlib import Path

import pytest
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from transformers import CLIPConfig, ViTForImageClassification
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from kontext.errors import BootError, GpuFault, OutOfMemory
from kontext.inference import safety, stand_in
from kontext.inference.safety import SafetyChecker, SecondOpinion

IMAGE = Image.new("RGB", (300, 200), "teal")


def classifier(probability: float) -> tuple[ViTForImageClassification, ViTImageProcessorPil]:
    """Return a classifier that gives every image this probability of being unsafe."""
    model, processor = stand_in.classifier()
    model.classifier.weight.data.zero_()
    odds = torch.tensor(probability).logit()
    model.classifier.bias.data = torch.stack([torch.tensor(0.0), odds])
    return model, processor


def second_opinion(threshold: float) -> SecondOpinion:
    """Return a tiny Stable Diffusion checker that flags from this cosine similarity."""
    tower = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    vision = {**tower, "intermediate_size": 16, "image_size": 32, "patch_size": 16}
    torch.manual_seed(0)
    checker = StableDiffusionSafetyChecker(
        CLIPConfig(projection_dim=8, vision_config=vision, text_config=tower)
    ).eval()
    checker.concept_embeds_weights.data.fill_(threshold)
    checker.special_care_embeds_weights.data.fill_(2.0)
    square = {"height": 32, "width": 32}
    return SecondOpinion(checker, CLIPImageProcessorPil(size=square, crop_size=square))


@pytest.mark.parametrize(
    ("probability", "flagged"),
    [(0.0, False), (0.8499, False), (0.8501, True), (1.0, True), (float("nan"), True)],
)
def test_the_threshold_decides(probability: float, flagged: bool) -> None:
    """Scores are compared unrounded, and NaN flags."""
    assert SafetyChecker(*classifier(probability), threshold=0.85).flags(IMAGE) is flagged


@pytest.mark.parametrize(
    ("tolerance", "threshold"),
    [(0, 0.2833), (1, 0.5667), (2, 0.85), (3, 0.88), (4, 0.91), (5, 0.94), (6, 0.97)],
)
def test_a_tolerance_moves_the_threshold(tolerance: int, threshold: float) -> None:
    """Each step lets more pass; 2 is the deployer's own threshold, and a certain score flags."""
    below, above = (
        SafetyChecker(*classifier(threshold + difference), threshold=0.85)
        for difference in (-0.001, 0.001)
    )

    assert not below.flags(IMAGE, tolerance)
    assert above.flags(IMAGE, tolerance)
    assert SafetyChecker(*classifier(1.0), threshold=0.85).flags(IMAGE, tolerance)


def test_the_score_is_the_models_own() -> None:
    """The probability is the softmax of the classifier's logits for its label 'nsfw'."""
    checker = SafetyChecker(*classifier(0.123456), threshold=0.85)

    assert checker.probability(IMAGE) == pytest.approx(0.123456, abs=1e-7)


@pytest.mark.parametrize(
    ("first", "second", "flagged"),
    [(0.9, -2.0, True), (0.9, 2.0, False), (0.1, -2.0, False)],
    ids=["both flag", "second disagrees", "first passes"],
)
def test_both_opinions_must_agree(first: float, second: float, flagged: bool) -> None:
    """An image is refused only when the classifier and the second opinion flag it."""
    checker = SafetyChecker(*classifier(first), 0.85, second_opinion(second))

    assert checker.flags(IMAGE) is flagged


def test_the_second_opinion_does_not_round() -> None:
    """A similarity above the threshold by less than the library's rounding still flags."""
    opinion = second_opinion(-2.0)
    pixels = opinion._processor(IMAGE, return_tensors="pt")["pixel_values"]
    embedding = opinion._checker.visual_projection(opinion._checker.vision_model(pixels)[1])
    opinion._checker.concept_embeds.data[:] = embedding.detach()  # cosine similarity 1

    opinion._checker.concept_embeds_weights.data.fill_(1 - 2e-4)
    assert opinion.flags(IMAGE)
    opinion._checker.concept_embeds_weights.data.fill_(1 + 2e-4)
    assert not opinion.flags(IMAGE)


def test_it_loads_from_disk(tmp_path: Path) -> None:
    """A checker saved in the Hub's layout is loaded offline and gives the same probability."""
    opinion = second_opinion(-2.0)
    for part in classifier(0.9):
        part.save_pretrained(tmp_path / "first")
    for part in (opinion._checker, opinion._processor):
        part.save_pretrained(tmp_path / "second")

    checker = safety.load(str(tmp_path / "first"), 0.85, str(tmp_path / "second"), "cpu")
    assert checker.flags(IMAGE)
    assert checker.probability(IMAGE) == pytest.approx(0.9, abs=1e-6)


@pytest.mark.parametrize("missing", ["first", "second"])
def test_a_checker_that_cannot_be_loaded_refuses_the_boot(tmp_path: Path, missing: str) -> None:
    """Images are never passed unchecked: a missing model is an error that names the setting."""
    for part in classifier(0.9):
        part.save_pretrained(tmp_path / "first")
    second = tmp_path / "second"
    first = tmp_path / ("nowhere" if missing == "first" else "first")

    with pytest.raises(BootError, match=r"SAFETY_MODEL_PATH must hold Falconsai"):
        safety.load(str(first), 0.85, str(second), "cpu")


def test_the_stand_in_flags_nothing() -> None:
    """It is of the same class, and passes the noise that a tiny model paints."""
    assert not safety.load_stand_in(0.85).flags(IMAGE)


@pytest.mark.parametrize(
    ("error", "meaning"),
    [
        (torch.AcceleratorError("CUDA error: unspecified launch failure"), GpuFault),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
            OutOfMemory,
        ),
    ],
)
def test_a_failure_of_the_gpu_is_named(error: RuntimeError, meaning: type[Exception]) -> None:
    """The checker runs on the same GPU as the edit, where the same failures happen."""
    model, processor = classifier(0)

    def fail(_module: object, _inputs: object) -> None:
        raise error

    model.register_forward_pre_hook(fail)

    with pytest.raises(meaning):
        SafetyChecker(model, processor, threshold=0.85).flags(IMAGE)
