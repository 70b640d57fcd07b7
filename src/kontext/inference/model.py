"""Loads the pipeline from disk onto its device.

Knows plans, precisions and devices; does not know requests.
"""

from dataclasses import dataclass

import torch
from diffusers import FluxKontextPipeline
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from kontext import __version__
from kontext.errors import BootError
from kontext.inference import acceleration, attention, autoencoder, stand_in
from kontext.inference.mode import Card
from kontext.inference.plan import EXACT, Plan
from kontext.inference.weights import Weights


@dataclass(frozen=True, slots=True)
class Model:
    """A loaded pipeline, and the facts about it that are stored in an image's provenance.

    Attributes:
        pipeline: The pipeline, ready to use.
        name: The model's name on the Hub.
        revision: The commit on the Hub, or `unknown`.
        plan: The plan that was applied to the pipeline.
    """

    pipeline: FluxKontextPipeline
    name: str
    revision: str
    plan: Plan = EXACT


def has_gpu() -> bool:
    """Return whether this machine has a CUDA device."""
    return torch.cuda.is_available()


def card() -> Card:
    """Return the GPU of this machine.

    Raises:
        BootError: There is no CUDA device.
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
    """Stop diffusers and transformers from writing progress bars into a log."""
    for library in (diffusers_logging, transformers_logging):
        library.disable_progress_bar()


def load(
    name: str,
    weights: Weights,
    plan: Plan = EXACT,
    device: str = "cuda",
    dtype: torch.dtype = torch.bfloat16,
) -> Model:
    """Load the pipeline from disk, offline, and apply the plan.

    Components are loaded one after another, straight to the device. In parallel would be a race,
    since `from_pretrained` of both libraries patches `torch.nn.init` and torch's default dtype for
    the whole process; `kontext.startup.read_ahead` reads the disk in parallel instead. With a
    streamed plan, the weights are memory-mapped and each layer is quantised on its way to the
    device.

    Args:
        name: The model's name, for provenance.
        weights: The directory with the weights.
        plan: The plan to apply.
        device: The device that runs the pipeline.
        dtype: The precision of what is not quantised; in float16, FLUX returns black images.

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
    autoencoder.postprocess_in_float32(pipeline)
    return Model(pipeline, name, weights.revision, plan)


def load_stand_in() -> Model:
    """Load the tiny model that comes with the package, onto the CPU.

    It is loaded in bfloat16 where the CPU computes in it, which is faster, above all with matrix
    units (AMX), and the difference between the images is not visible; elsewhere in float32.
    """
    # Older versions of torch do not have the function.
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    dtype = torch.bfloat16 if capabilities.get("avx512_bf16") else torch.float32
    return load(stand_in.NAME, Weights(stand_in.WEIGHTS, __version__), device="cpu", dtype=dtype)
