"""What one edit is made of: the plain value between a request and the GPU."""

from dataclasses import dataclass

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
