"""List one card of each architecture that the image supports, with NVIDIA's specifications."""

from typing import NamedTuple


class Properties(NamedTuple):
    """What torch asks of a CUDA device, in torch's names, with memory in bytes."""

    name: str
    major: int
    minor: int
    total_memory: int
    multi_processor_count: int
    max_threads_per_multi_processor: int
    L2_cache_size: int
    shared_memory_per_block_optin: int
    shared_memory_per_multiprocessor: int
    regs_per_multiprocessor: int = 65536
    max_threads_per_block: int = 1024
    warp_size: int = 32


_GB, _MIB, _KIB = 10**9, 2**20, 2**10

CARDS = {
    "sm_80": Properties(
        "NVIDIA A100", 8, 0, 80 * _GB, 108, 2048, 40 * _MIB, 163 * _KIB, 164 * _KIB
    ),
    "sm_86": Properties(
        "NVIDIA RTX A6000", 8, 6, 48 * _GB, 84, 1536, 6 * _MIB, 99 * _KIB, 100 * _KIB
    ),
    "sm_89": Properties("NVIDIA L40S", 8, 9, 48 * _GB, 142, 1536, 96 * _MIB, 99 * _KIB, 100 * _KIB),
    "sm_90": Properties(
        "NVIDIA H100", 9, 0, 80 * _GB, 132, 2048, 50 * _MIB, 227 * _KIB, 228 * _KIB
    ),
    "sm_100": Properties(
        "NVIDIA B200", 10, 0, 180 * _GB, 148, 2048, 126 * _MIB, 227 * _KIB, 228 * _KIB
    ),
    "sm_120": Properties(
        "NVIDIA GeForce RTX 5090", 12, 0, 32 * _GB, 170, 1536, 96 * _MIB, 99 * _KIB, 100 * _KIB
    ),
}
"""The cards by compute capability. Shared memory per block and per multiprocessor is taken from the
table of technical specifications in CUDA's programming guide, the rest from the architectures'
white papers."""
