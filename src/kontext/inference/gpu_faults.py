"""What an exception from the GPU means: too little memory, or a context that is lost.

Knows torch's exceptions and the words of CUDA, cuBLAS, cuDNN and Triton in them; nothing of
pipelines, images or jobs. A CUDA context that has failed cannot be mended inside its process:
every later call fails too. Memory that was short is no such failure, as long as it comes back.
"""

import gc
import logging
import re
from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

import torch

from kontext.errors import GpuFault, MemoryNotFreed, OutOfMemory

T = TypeVar("T")

KEPT_BYTES = 512 * 2**20
"""What CUDA may keep of an edit that ran out of memory: kernels, handles and workspaces of
libraries that were loaded meanwhile. A choice that no card has confirmed."""

SCARCE_BYTES = 256 * 2**20
"""Free memory below which cuBLAS, whose handle then does not fit, says that it is not
initialized. A choice likewise."""

_OUT_OF_MEMORY = re.compile(
    r"CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED"
    r"|CUDNN_STATUS_INTERNAL_ERROR_(?:HOST|DEVICE)_ALLOCATION_FAILED"
    r"|(?:CUDA error|CUDA driver error|Triton Error \[CUDA\]): out of memory"
)
_NOT_INITIALIZED = "CUBLAS_STATUS_NOT_INITIALIZED"
_LOST = re.compile(
    r"CUDA error: |CUDA driver error: |Triton Error \[CUDA\]: |CUBLAS_STATUS_|CUDNN_STATUS_"
    r"|cuDNN error"
)

log = logging.getLogger("kontext")


class Memory(Protocol):
    """The GPU's memory, in bytes."""

    def free(self) -> int:
        """Return what no process has taken."""

    def available(self) -> int:
        """Return what an edit could take: what is free, and what torch's cache holds unused."""

    def release(self) -> None:
        """Drop the garbage that holds tensors, and empty torch's cache."""


class CudaMemory:
    """The memory of the current CUDA device; all zeros in a process that uses none."""

    def free(self) -> int:
        """Ask CUDA; a lost context makes it raise."""
        if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            return 0
        return torch.cuda.mem_get_info()[0]

    def available(self) -> int:
        """Ask CUDA and torch; a lost context makes it raise."""
        return self.free() + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()

    def release(self) -> None:
        """Release it."""
        gc.collect()
        torch.cuda.empty_cache()


class GpuGuard:
    """Runs work on the GPU and says what its failure means.

    Args:
        memory: Of the GPU.
    """

    def __init__(self, memory: Memory | None = None) -> None:
        self._memory = memory or CudaMemory()

    def run(self, work: Callable[[], T], out_of_memory: str) -> T:
        """Return what `work` returns; what it raises for other reasons passes unchanged.

        Args:
            work: Called once, in this thread.
            out_of_memory: The public sentence for work that needs more memory than there is.

        Raises:
            OutOfMemory: The memory did not suffice, and is free again.
            MemoryNotFreed: The memory did not suffice, and part of it has not come back.
            GpuFault: The GPU or its context is lost.
        """
        before = 0
        try:
            before = self._memory.available()
            return work()
        except RuntimeError as error:
            self._require_out_of_memory(error)
        # Only here, outside of the handler, has the exception let go of the work's tensors.
        raise self._after(before)(out_of_memory)

    def _require_out_of_memory(self, error: RuntimeError) -> None:
        """Return if `error` says that memory was short; else raise what it means."""
        if any(map(self._is_out_of_memory, _causes(error))):
            log.warning("the GPU ran out of memory: %s", str(error))  # no record keeps its frames
        elif any(map(_is_lost, _causes(error))):
            raise GpuFault from error
        else:
            raise error

    def _is_out_of_memory(self, error: BaseException) -> bool:
        if isinstance(error, torch.OutOfMemoryError) or _OUT_OF_MEMORY.search(str(error)):
            return True
        return _NOT_INITIALIZED in str(error) and self._is_scarce()

    def _is_scarce(self) -> bool:
        try:
            return self._memory.free() < SCARCE_BYTES
        except RuntimeError:
            return False

    def _after(self, before: int) -> type[OutOfMemory]:
        """Release memory, and say which kind of failure it was."""
        try:
            self._memory.release()
            missing = before - self._memory.available()
        except RuntimeError as error:
            raise GpuFault from error
        return MemoryNotFreed if missing > KEPT_BYTES else OutOfMemory


def _is_lost(error: BaseException) -> bool:
    return isinstance(error, torch.AcceleratorError) or _LOST.search(str(error)) is not None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and those behind it: a compiler wraps what its kernels raise."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
