"""One edit with the pipeline: reference, noise, steps, progress, stop, crop, final size.

Synchronous; it runs where it is called and knows nothing of jobs, queues or files.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from PIL import Image

from kontext.contract.size import GRID
from kontext.inference import acceleration, schedule
from kontext.inference.autoencoder import Float32ImageProcessor, ReferenceEncoder
from kontext.inference.edit import Edit
from kontext.inference.gpu_faults import GpuGuard
from kontext.inference.model import Model


class Editor:
    """Edits images, one at a time.

    Args:
        model: The loaded pipeline.
        true_cfg_scale: Scale of true classifier-free guidance, above 1.
        guard: Says what a failure on the GPU means.

    Attributes:
        reference_encoder: What encodes references; public so that it can be timed by itself.
    """

    def __init__(self, model: Model, true_cfg_scale: float, guard: GpuGuard | None = None) -> None:
        self.model = model.name
        self.revision = model.revision
        self.mode = model.plan.mode
        self._plan = model.plan
        self._pipeline = model.pipeline
        self._pipeline.image_processor = Float32ImageProcessor(GRID)
        self.reference_encoder = ReferenceEncoder(self._pipeline)
        self._true_cfg_scale = true_cfg_scale
        self._guard = guard or GpuGuard()

    def edit(self, edit: Edit, on_step: Callable[[int], None]) -> Image.Image:
        """Return the edited image, RGB, of exactly `edit.size`.

        Args:
            edit: What to do.
            on_step: Called with the number of steps done after each; what it raises ends the
                edit and leaves the pipeline ready for the next.

        Raises:
            OutOfMemory: The edit does not fit into the GPU's memory.
            GpuFault: The GPU is lost.
        """

        def work() -> torch.Tensor:
            with self._denoising(edit):
                return self._pixels(edit, on_step)

        pixels = self._guard.run(
            work, f"The edit ran out of GPU memory at {edit.size}; ask for a smaller size"
        )
        return _delivered(Image.fromarray(pixels.numpy()), edit)

    def _denoising(self, edit: Edit) -> AbstractContextManager[object]:
        steps = edit.request.num_inference_steps
        return acceleration.denoising(self._pipeline, self._plan, steps, _branches(edit))

    def _pixels(self, edit: Edit, on_step: Callable[[int], None]) -> torch.Tensor:
        """Return height x width x 3, uint8, on the CPU."""
        canvas = edit.generated.grid
        request, guided = edit.request, _guided(edit)
        images = self._pipeline(
            image=self.reference_encoder.encode(edit.reference),
            prompt=request.prompt,
            negative_prompt=request.negative_prompt if guided else None,
            true_cfg_scale=self._true_cfg_scale if guided else 1.0,
            width=canvas.width,
            height=canvas.height,
            max_area=canvas.area,  # else the pipeline scales every size to one megapixel
            _auto_resize=False,
            num_inference_steps=request.num_inference_steps,
            sigmas=schedule.sigmas(canvas.tokens, request.num_inference_steps),
            guidance_scale=request.guidance,
            # Drawn on the CPU: CUDA's generators differ between GPU models.
            generator=torch.Generator("cpu").manual_seed(edit.seed),
            callback_on_step_end=_callback(on_step, self._pipeline.device),
            output_type="pt",
        ).images
        if not torch.isfinite(images).all():
            raise ArithmeticError("the pipeline returned values that are not finite")
        # Made bytes and put in order where that costs nothing, to cross once.
        levels = (images[0] * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous()
        pixels: torch.Tensor = levels.cpu()
        return pixels


def _delivered(canvas: Image.Image, edit: Edit) -> Image.Image:
    """Crop the surplus of the grid, to the right and below as in the reference; then scale."""
    generated, size = edit.generated, edit.size
    image = canvas.crop((0, 0, generated.width, generated.height))
    if generated == size:
        return image
    return image.resize((size.width, size.height), Image.Resampling.LANCZOS)


def _guided(edit: Edit) -> bool:
    """Tell whether the edit has true classifier-free guidance."""
    return bool(edit.request.negative_prompt.strip())


def _branches(edit: Edit) -> int:
    """Return how often the transformer is called a step."""
    return 2 if _guided(edit) else 1


def _callback(
    on_step: Callable[[int], None], device: torch.device
) -> Callable[[object, int, object, dict[str, object]], dict[str, object]]:
    gpu = _Gpu() if device.type == "cuda" else None

    def callback(
        _pipeline: object, index: int, _timestep: object, tensors: dict[str, object]
    ) -> dict[str, object]:
        if gpu:
            gpu.wait_for_the_step_before()
        on_step(index + 1)
        return tensors

    return callback


class _Gpu:
    """Works off what the host queues, which takes the host a fraction of that time.

    A host that did not wait would report steps that have not begun, and after a stop the GPU would
    go on with all that is queued. One step ahead suffices to keep it busy.
    """

    def __init__(self) -> None:
        self._before: torch.cuda.Event | None = None

    def wait_for_the_step_before(self) -> None:
        queued = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        queued.record()
        if self._before is not None:
            self._before.synchronize()
        self._before = queued
