"""An edit as the GPU gets it, and the interfaces of the editor and the safety checker."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from kontext.contract.request import EditRequest
from kontext.contract.size import Size


@dataclass(frozen=True, slots=True)
class Edit:
    """A request together with its fetched image, its sizes and its seed.

    Attributes:
        request: The caller's request; fields that take effect on the GPU are read from it.
        reference: The input image, RGB, both sides multiples of 16, with about the area of
            `generated`, see `kontext.images.reference`; None makes an image from the prompt alone.
        size: The size of the result, on the 16-pixel grid or off it.
        generated: The size to generate and then scale to `size`, on the grid or off it.
        seed: The seed, 0..2^63-1, from the request or drawn.
    """

    request: EditRequest
    reference: Image.Image | None
    size: Size
    generated: Size
    seed: int


class Editor(Protocol):
    """Edits images; implemented by `kontext.inference.editor.Editor`."""

    model: str
    revision: str

    @property
    def mode(self) -> str:
        """The mode's name, one of those in `kontext.inference.mode`."""

    def edit(self, edit: Edit, on_step: Callable[[int], None]) -> Image.Image:
        """Return an image of exactly `edit.size`; call `on_step` after each step."""


class Checker(Protocol):
    """Judges whether an image is safe; implemented by `kontext.inference.safety.SafetyChecker`."""

    def flags(self, image: Image.Image, tolerance: int) -> bool:
        """Return whether `image` is unsafe, so that it must not be returned."""
