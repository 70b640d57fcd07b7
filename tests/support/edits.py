"""Edits for tests of what happens between a request and the GPU."""

from typing import Any

from PIL import Image

from kontext.contract.request import EditRequest
from kontext.contract.size import Size
from kontext.inference.edit import Edit


def edit_of(
    size: Size,
    reference: Image.Image,
    generated: Size | None = None,
    seed: int = 7,
    **fields: Any,
) -> Edit:
    """Return an edit; `fields` are those of the contract.

    Args:
        size: Pixels to return.
        reference: The input image as the transformer reads it.
        generated: Pixels to generate; `size` itself, if not given.
        seed: Of the noise.
        fields: What the request asks for beside the defaults.
    """
    request = EditRequest(**{"prompt": "make it blue", "image": "data:,", **fields})
    return Edit(request, reference, size, generated or size, seed)
