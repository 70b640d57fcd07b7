"""What one edit is made of, between a request and the GPU, and what carries it out there."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from kontext.size import Size


@dataclass(frozen=True, slots=True)
class Edit:
    """What one edit is made of.

    Attributes:
        prompt: The instruction.
        negative_prompt: Not blank: true classifier-free guidance, two transformer calls a step.
        reference: RGB, both sides multiples of 16, of about the area that is generated; see
            `kontext.reference`.
        size: Pixels to return, on the grid or off it.
        steps: Denoising steps, 1..50.
        guidance: Distilled guidance scale, 0..10.
        seed: 0..2^63-1.
        generated: Pixels to generate and then to scale to `size`; None generates `size` itself.
    """

    prompt: str
    negative_prompt: str
    reference: Image.Image
    size: Size
    steps: int
    guidance: float
    seed: int
    generated: Size | None = None

    @property
    def generated_size(self) -> Size:
        """Pixels that the model generates, on the grid or off it."""
        return self.generated or self.size


class Editor(Protocol):
    """What edits; `kontext.editor.Editor`, or five lines in a test."""

    model: str
    revision: str

    @property
    def mode(self) -> str:
        """Of `kontext.mode`."""

    def edit(self, edit: Edit, on_step: Callable[[int], None]) -> Image.Image:
        """Return a picture of exactly `edit.size`; call `on_step` after each step."""


class Checker(Protocol):
    """What says whether a picture is fit to return."""

    def flags(self, picture: Image.Image) -> bool:
        """Tell whether `picture` must not be returned."""
