"""Weights -> a ready pipeline on its device. Knows precision and devices, nothing of requests."""

from dataclasses import dataclass

import torch
from diffusers import FluxKontextPipeline

from kontext import stand_in
from kontext.errors import BootError
from kontext.weights import Weights

SMALLEST_GPU = 38e9
"""Bytes. The bf16 weights take 33.7e9 (transformer 23.8, T5 9.5, CLIP and VAE 0.4), the rest is
for activations; measured on no card yet."""


@dataclass(frozen=True, slots=True)
class Model:
    """A pipeline and what a picture's provenance says of it."""

    pipeline: FluxKontextPipeline
    name: str
    revision: str


def check_gpu() -> None:
    """Refuse a machine that cannot hold the model.

    Raises:
        BootError: There is no CUDA device, or its memory is too small.
    """
    if not torch.cuda.is_available():
        raise BootError(
            "no CUDA device is available; choose a GPU for the endpoint "
            "(or ask for the stand-in by name: STAND_IN=model)"
        )
    memory = torch.cuda.get_device_properties(0).total_memory
    if memory < SMALLEST_GPU:
        raise BootError(
            f"{torch.cuda.get_device_name(0)} has {memory / 1e9:.0f} GB of memory, "
            f"the model needs {SMALLEST_GPU / 1e9:.0f} GB; choose a GPU of 48 GB or more"
        )


def load(name: str, weights: Weights, device: str = "cuda") -> Model:
    """Load the pipeline from disk, offline, in bfloat16 (float16 gives black pictures).

    One component after another, each straight to the device: side by side would be a race, since
    `from_pretrained` of both libraries patches `torch.nn.init` and torch's default dtype for the
    whole process. `kontext.prefetch` has the disk read in parallel instead.

    Raises:
        BootError: The directory is incomplete or damaged.
    """
    try:
        pipeline = FluxKontextPipeline.from_pretrained(
            weights.path, dtype=torch.bfloat16, local_files_only=True, device_map=device
        )
    except (OSError, ValueError, KeyError) as error:
        raise BootError(f"the weights in {weights.path} are incomplete or damaged") from error
    return Model(pipeline, name, weights.revision)


def load_stand_in() -> Model:
    """Build the tiny pipeline of random weights; see `kontext.stand_in`."""
    return Model(stand_in.pipeline(), stand_in.NAME, "none")
