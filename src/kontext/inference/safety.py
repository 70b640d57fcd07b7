"""Decides whether an image is safe to return.

Falconsai/nsfw_image_detection, a ViT classifier, judges first. The Stable Diffusion safety checker
is an optional second opinion, which must agree before an image is refused. Knows classifiers and
thresholds; does not know jobs.
"""

from pathlib import Path

import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from transformers import ViTForImageClassification
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from kontext.contract.request import DEFAULT_SAFETY_TOLERANCE
from kontext.errors import BootError
from kontext.inference import stand_in
from kontext.inference.gpu_faults import GpuGuard

UNSAFE_LABEL = "nsfw"


class SecondOpinion:
    """The Stable Diffusion safety checker, with unrounded scores."""

    def __init__(
        self, checker: StableDiffusionSafetyChecker, processor: CLIPImageProcessorPil
    ) -> None:
        self._checker = checker
        self._processor = processor

    @torch.inference_mode()
    def flags(self, image: Image.Image) -> bool:
        """Return whether the image is more similar to an unsafe concept than its threshold."""
        pixels = self._processor(image, return_tensors="pt")["pixel_values"]
        # Unlike `forward`, the variant for ONNX does not round. It blackens only the dummy.
        dummy = torch.zeros(1)
        _, flagged = self._checker.forward_onnx(pixels.to(self._checker.device), dummy)
        return bool(flagged.any())


class SafetyChecker:
    """Refuses an image when the classifier, and the second opinion if any, flag it.

    Args:
        classifier: The classifier, with a label `nsfw`.
        processor: The classifier's image processor.
        threshold: The probability from which an image is flagged, 0..1.
        second_opinion: The checker that must agree, if any.
        guard: The guard that translates failures of the GPU.
    """

    def __init__(
        self,
        classifier: ViTForImageClassification,
        processor: ViTImageProcessorPil,
        threshold: float,
        second_opinion: SecondOpinion | None = None,
        guard: GpuGuard | None = None,
    ) -> None:
        self._classifier = classifier
        self._processor = processor
        self._threshold = threshold
        self._second_opinion = second_opinion
        self._guard = guard or GpuGuard()
        self._unsafe = classifier.config.label2id[UNSAFE_LABEL]

    def flags(self, image: Image.Image, tolerance: int = DEFAULT_SAFETY_TOLERANCE) -> bool:
        """Return whether `image` (RGB) is unsafe, so that it must not be returned.

        Args:
            image: The image.
            tolerance: 0..6, of the contract; see `tolerated`.

        Raises:
            OutOfMemory: The checker does not fit into the GPU's memory.
            GpuFault: The GPU or its context is lost.
        """
        return self._guard.run(
            lambda: self._flags(image, tolerated(self._threshold, tolerance)),
            "The safety checker ran out of GPU memory; ask for a smaller size",
        )

    def _flags(self, image: Image.Image, threshold: float) -> bool:
        # Not `>=`: NaN must flag.
        if self.probability(image) < threshold:
            return False
        return self._second_opinion is None or self._second_opinion.flags(image)

    @torch.inference_mode()
    def probability(self, image: Image.Image) -> float:
        """Return the classifier's probability, 0..1, unrounded, that the image is unsafe."""
        pixels = self._processor(image, return_tensors="pt")["pixel_values"]
        logits = self._classifier(pixel_values=pixels.to(self._classifier.device)).logits
        return float(logits.softmax(-1)[0, self._unsafe])


def tolerated(threshold: float, tolerance: int) -> float:
    """Return the probability from which an image is flagged at a tolerance.

    In equal parts from a third of the threshold at 0 to the threshold itself at 2, and from there
    four fifths of the way to certainty at 6, so that a certain score flags at every tolerance. The
    scale is Black Forest Labs'; what it stands for there is not published, so this is a choice.

    Args:
        threshold: The probability at the default tolerance, 0..1.
        tolerance: 0..6.
    """
    if tolerance <= DEFAULT_SAFETY_TOLERANCE:
        return threshold * (tolerance + 1) / (DEFAULT_SAFETY_TOLERANCE + 1)
    return threshold + (1 - threshold) * (tolerance - DEFAULT_SAFETY_TOLERANCE) / 5


def load(
    path: str, threshold: float, second_opinion_path: str | None, device: str
) -> SafetyChecker:
    """Load the checker from disk, offline, in float32.

    Args:
        path: The directory of the classifier.
        threshold: The probability from which an image is flagged, 0..1.
        second_opinion_path: The directory of the second opinion, if one is wanted.
        device: The device that runs the checker.

    Raises:
        BootError: A directory does not hold its model; the worker must not start.
    """
    try:
        classifier = ViTForImageClassification.from_pretrained(path, local_files_only=True)
        processor = ViTImageProcessorPil.from_pretrained(path, local_files_only=True)
        second = _load_second_opinion(second_opinion_path, device) if second_opinion_path else None
        return SafetyChecker(classifier.to(device).eval(), processor, threshold, second)
    except (OSError, ValueError, KeyError) as error:
        raise BootError(
            "the safety checker cannot be loaded: SAFETY_MODEL_PATH must hold "
            "Falconsai/nsfw_image_detection, and SAFETY_SECOND_OPINION_PATH, when set, "
            "CompVis/stable-diffusion-safety-checker"
        ) from error


def load_stand_in(threshold: float) -> SafetyChecker:
    """Build a checker of the same class that flags no image."""
    return SafetyChecker(*stand_in.classifier(), threshold)


def _load_second_opinion(path: str, device: str) -> SecondOpinion:
    if not Path(path).is_dir():
        raise OSError(f"{path} is not a directory")
    checker = StableDiffusionSafetyChecker.from_pretrained(path, local_files_only=True)
    processor = CLIPImageProcessorPil.from_pretrained(path, local_files_only=True)
    return SecondOpinion(checker.to(device).eval(), processor)
