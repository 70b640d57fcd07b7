"""Edits for tests of the editor, and images to edit."""

from typing import Any

import numpy as np
from PIL import Image

from kontext.contract.request import EditRequest
from kontext.contract.size import Size
from kontext.inference.edit import Edit, Editor

SMALL = Size(256, 256)


def edit_of(
    size: Size,
    reference: Image.Image,
    generated: Size | None = None,
    seed: int = 7,
    **fields: Any,
) -> Edit:
    """Return an edit.

    Args:
        size: The size of the result.
        reference: The input image as the transformer reads it.
        generated: The size to generate; `size` by default.
        seed: The seed of the noise.
        fields: The request's fields that differ from the defaults.
    """
    request = EditRequest(**{"prompt": "make it blue", "image": "data:,", **fields})
    return Edit(request, reference, size, generated or size, seed)


def an_edit(size: Size = SMALL, **fields: Any) -> Edit:
    """Return an edit of ten steps whose reference is a gradient, 256 pixels square.

    Args:
        size: The size of the result.
        fields: The arguments of `edit_of` that differ.
    """
    reference = Image.radial_gradient("L").convert("RGB")
    return edit_of(size, **{"reference": reference, "num_inference_steps": 10, **fields})


def done(editor: Editor, edit: Edit) -> bytes:
    """Make the edit, and return the pixels of the result."""
    return editor.edit(edit, lambda _: None).tobytes()


def noise_image(width: int = 256, height: int = 256) -> Image.Image:
    """Return an image of noise, always the same."""
    noise = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)
