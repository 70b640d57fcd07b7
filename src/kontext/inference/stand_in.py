"""Stand-ins for machines without the weights: tiny models of the real classes.

The pipeline follows a few instructions with a visible effect, such as "make it sepia", and returns
the image unchanged for any other; `builder/stand_in` trains it. The classifier flags nothing.
"""

from pathlib import Path

import torch
from transformers import ViTConfig, ViTForImageClassification
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

NAME = "kontext stand-in"
"""The model's name in an image's provenance."""

WEIGHTS = Path(__file__).with_name("stand_in_weights")
"""The pipeline in diffusers' layout, half precision, with SHA-256 sums and a model card."""


def classifier() -> tuple[ViTForImageClassification, ViTImageProcessorPil]:
    """Build a classifier of Falconsai's class that labels every image 'normal', by its bias."""
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=16,
        image_size=32,
        patch_size=16,
        id2label={0: "normal", 1: "nsfw"},
        label2id={"normal": 0, "nsfw": 1},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ViTForImageClassification(config).eval()
    model.classifier.bias.data = torch.tensor([100.0, -100.0])
    return model, ViTImageProcessorPil(size={"height": 32, "width": 32})
