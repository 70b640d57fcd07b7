"""One edit on its way from a request to the GPU, and the interfaces of what works on it there."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from kontext.contract.request import EditRequest
from kontext.contract.size import Size


@dataclass(frozen=True, slots=True)
class Edit:
    """A request, and what the worker has made of the parts that need work or a choice.

    Attributes:
        request: What the caller asked for; every field that takes effect on the GPU is read here.
        reference: The input image, RGB, both sides multiples of 16, of about the area that is
            generated; see `kontext.images.reference`.
        size: Pixels to return, on the 16-pixel grid or off it.
        generated: Pixels to generate and then to scale to `size`, on the grid or off it.
        seed: 0..2^63-1; the request's, or the one that was drawn for it.
    """

    request: EditRequest
    reference: Image.Image
    size: Size
    generated: Size
    seed: int


class Editor(Protocol):
    """Edits an image; `kontext.inference.editor.Editor`, or five lines in a test."""

    model: str
    revision: str

    @property
    def mode(self) -> str:
        """The name of the mode, of `kontext.inference.mode`."""

    def edit(self, edit: Edit, on_step: Callable[[int], None]) -> Image.Image:
        """Return an image of exactly `edit.size`; call `on_step` after each step."""


class Checker(Protocol):
    """Says whether an image is fit to return."""

    def flags(self, image: Image.Image) -> bool:
        """Tell whether `image` must not be returned."""
