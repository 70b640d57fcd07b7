"""Edits an image with the pipeline: reference, noise, steps, progress, stop, crop, final size.

Synchronous: an edit runs on the calling thread. Does not know jobs, queues or files.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from PIL import Image

from kontext.inference import acceleration, schedule
from kontext.inference.autoencoder import ReferenceEncoder
from kontext.inference.edit import Edit
from kontext.inference.gpu_faults import GpuGuard
from kontext.inference.model import Model


class Editor:
    """Edits images, one at a time.

    Args:
        model: The loaded model.
        true_cfg_scale: The scale of true classifier-free guidance, above 1.
        guard: The guard that translates failures of the GPU.

    Attributes:
        reference_encoder: The encoder of references; public so that benchmarks can time it.
    """

    def __init__(self, model: Model, true_cfg_scale: float, guard: GpuGuard | None = None) -> None:
        self.model = model.name
        self.revision = model.revision
        self.mode = model.plan.mode
        self._plan = model.plan
        self._pipeline = model.pipeline
        self.reference_encoder = ReferenceEncoder(self._pipeline)
        self._true_cfg_scale = true_cfg_scale
        self._guard = guard or GpuGuard()

    def edit(self, edit: Edit, on_step: Callable[[int], None]) -> Image.Image:
        """Return the edited image, RGB, of exactly `edit.size`.

        Args:
            edit: The edit.
            on_step: The function that is called after each step with the number of steps done. An
                exception that it raises ends the edit; the pipeline stays usable.

        Raises:
            OutOfMemory: The edit does not fit into the GPU's memory.
            GpuFault: The GPU or its context is lost.
        """

        def work() -> torch.Tensor:
            with self._denoising(edit):
                return self._pixels(edit, on_step)

        pixels = self._guard.run(
            work, f"The edit ran out of GPU memory at {edit.size}; ask for a smaller size"
        )
        return _crop_and_scale(Image.fromarray(pixels.numpy()), edit)

    def _denoising(self, edit: Edit) -> AbstractContextManager[object]:
        steps = edit.request.num_inference_steps
        return acceleration.denoising(self._pipeline, self._plan, steps, _branches(edit))

    def _pixels(self, edit: Edit, on_step: Callable[[int], None]) -> torch.Tensor:
        """Return the generated image, height x width x 3, uint8, on the CPU."""
        canvas = edit.generated.grid
        request, guided = edit.request, _is_guided(edit)
        images = self._pipeline(
            image=self.reference_encoder.encode(edit.reference) if edit.reference else None,
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
        return _to_bytes(images[0])


def _to_bytes(image: torch.Tensor) -> torch.Tensor:
    """Convert 3 x height x width, 0 to 1, to height x width x 3, uint8, on the CPU."""
    if not torch.isfinite(image).all():
        raise ArithmeticError("the pipeline returned values that are not finite")
    # Rounded and permuted on the GPU, so that bytes are copied to the CPU and not floats.
    levels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous()
    return levels.cpu()


def _crop_and_scale(canvas: Image.Image, edit: Edit) -> Image.Image:
    """Crop the padding to the grid, at the right and below as in the reference, and scale."""
    generated, size = edit.generated, edit.size
    image = canvas.crop((0, 0, generated.width, generated.height))
    if generated == size:
        return image
    return image.resize((size.width, size.height), Image.Resampling.LANCZOS)


def _is_guided(edit: Edit) -> bool:
    """Return whether the edit uses true classifier-free guidance."""
    return bool(edit.request.negative_prompt.strip())


def _branches(edit: Edit) -> int:
    """Return the number of transformer calls a step."""
    return 2 if _is_guided(edit) else 1


def _callback(
    on_step: Callable[[int], None], device: torch.device
) -> Callable[[object, int, object, dict[str, object]], dict[str, object]]:
    throttle = _Throttle() if device.type == "cuda" else None

    def callback(
        _pipeline: object, index: int, _timestep: object, tensors: dict[str, object]
    ) -> dict[str, object]:
        if throttle:
            throttle.wait_for_previous_step()
        on_step(index + 1)
        return tensors

    return callback


class _Throttle:
    """Keeps the CPU at most one step ahead of the GPU, which is enough to keep the GPU busy.

    The CPU launches a step in a fraction of the time that the GPU needs for it. Unthrottled it
    would report steps that have not begun, and after a stop the GPU would still compute all the
    steps that were launched.
    """

    def __init__(self) -> None:
        self._previous: torch.cuda.Event | None = None

    def wait_for_previous_step(self) -> None:
        launched = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        launched.record()
        if self._previous is not None:
            self._previous.synchronize()
        self._previous = launched
