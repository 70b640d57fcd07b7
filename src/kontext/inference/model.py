"""Weights -> a ready pipeline on its device. Knows precision and devices, nothing of requests."""

from dataclasses import dataclass

import torch
from diffusers import FluxKontextPipeline
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from kontext import __version__
from kontext.errors import BootError
from kontext.inference import acceleration, attention, stand_in
from kontext.inference.mode import EXACT, Card, Plan
from kontext.inference.weights import Weights


@dataclass(frozen=True, slots=True)
class Model:
    """A pipeline and what an image's provenance says of it."""

    pipeline: FluxKontextPipeline
    name: str
    revision: str
    plan: Plan = EXACT


def has_gpu() -> bool:
    """Tell whether this machine has a CUDA device."""
    return torch.cuda.is_available()


def card() -> Card:
    """Return the GPU of this machine.

    Raises:
        BootError: There is none.
    """
    if not has_gpu():
        raise BootError(
            "no CUDA device is available; choose a GPU for the endpoint "
            "(or ask for the stand-in by name: STAND_IN=model)"
        )
    properties = torch.cuda.get_device_properties(0)
    return Card(
        properties.name,
        properties.total_memory,
        (properties.major, properties.minor),
        attention.has_flash_attention_3(),
    )


def hide_progress_bars() -> None:
    """Keep the libraries from drawing bars while they load, for a log that no terminal shows."""
    for library in (diffusers_logging, transformers_logging):
        library.disable_progress_bar()


def load(
    name: str,
    weights: Weights,
    plan: Plan = EXACT,
    device: str = "cuda",
    dtype: torch.dtype = torch.bfloat16,
) -> Model:
    """Load the pipeline from disk, offline; FLUX in bfloat16, for float16 gives black images.

    One component after another, each straight to the device: side by side would be a race, since
    `from_pretrained` of both libraries patches `torch.nn.init` and torch's default dtype for the
    whole process. `kontext.startup.read_ahead` has the disk read in parallel instead. Where that
    would not fit, the weights are mapped, and each layer is quantised as it gets to the device.

    Raises:
        BootError: The directory is incomplete or damaged.
    """
    try:
        pipeline = FluxKontextPipeline.from_pretrained(
            weights.path,
            dtype=dtype,
            local_files_only=True,
            device_map=None if plan.streamed else device,
        )
    except (OSError, ValueError, KeyError) as error:
        raise BootError(f"the weights in {weights.path} are incomplete or damaged") from error
    acceleration.prepare(pipeline, plan, device if plan.streamed else None)
    return Model(pipeline, name, weights.revision, plan)


def load_stand_in() -> Model:
    """Load the tiny model that comes with the package, onto the CPU.

    In bfloat16 where the CPU computes in it, which is faster, most of all with matrix units (AMX).
    The images are the same to the eye.
    """
    # Older torch has none.
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    dtype = torch.bfloat16 if capabilities.get("avx512_bf16") else torch.float32
    return load(stand_in.NAME, Weights(stand_in.WEIGHTS, __version__), device="cpu", dtype=dtype)
