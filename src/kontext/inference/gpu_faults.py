"""Translates exceptions from the GPU into errors: too little memory, or a lost CUDA context.

Knows torch's exceptions and the messages of CUDA, cuBLAS, cuDNN and Triton in them; does not know
pipelines, images or jobs. After a CUDA context is lost, every later call in the process fails too.
After an out-of-memory error the process can go on, provided that the memory is freed.
"""

import gc
import logging
import re
from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

import torch

from kontext.errors import GpuFault, MemoryNotFreed, OutOfMemory

T = TypeVar("T")

MAX_KEPT_BYTES = 512 * 2**20
"""The most memory that may stay allocated after an out-of-memory error: the kernels, handles and
workspaces of libraries loaded meanwhile. A choice that was not measured on a GPU."""

SCARCE_BYTES = 256 * 2**20
"""The free memory below which cuBLAS's handle does not fit, so that its "not initialized" means out
of memory. A choice that was not measured on a GPU."""

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
        """Return the memory that no process has allocated."""

    def available(self) -> int:
        """Return the memory that an edit could use: free, or unused in torch's cache."""

    def release(self) -> None:
        """Collect garbage, which may hold tensors, and empty torch's cache."""


class CudaMemory:
    """The memory of the current CUDA device; 0 in a process that has not used CUDA."""

    def free(self) -> int:
        """Ask CUDA, which raises if the context is lost."""
        if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            return 0
        return torch.cuda.mem_get_info()[0]

    def available(self) -> int:
        """Ask CUDA and torch, which raise if the context is lost."""
        return self.free() + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()

    def release(self) -> None:
        """Collect garbage and empty torch's cache."""
        gc.collect()
        torch.cuda.empty_cache()


class GpuGuard:
    """Runs work on the GPU and raises its failures as the project's errors.

    Args:
        memory: The GPU's memory; that of the current CUDA device by default.
    """

    def __init__(self, memory: Memory | None = None) -> None:
        self._memory = memory or CudaMemory()

    def run(self, work: Callable[[], T], out_of_memory: str) -> T:
        """Return the result of `work`; exceptions of other kinds pass unchanged.

        Args:
            work: The function, which is called once, on the calling thread.
            out_of_memory: The public sentence of an out-of-memory error.

        Raises:
            OutOfMemory: The GPU ran out of memory, which is free again.
            MemoryNotFreed: The GPU ran out of memory, and part of it is still allocated.
            GpuFault: The GPU or its context is lost.
        """
        before = 0
        try:
            before = self._memory.available()
            return work()
        except RuntimeError as error:
            self._require_out_of_memory(error)
        # Outside the handler, because the exception's frames keep the work's tensors alive.
        raise self._free_memory(before)(out_of_memory)

    def _require_out_of_memory(self, error: RuntimeError) -> None:
        """Return if `error` means out of memory; else raise `GpuFault` or `error` itself."""
        if any(map(self._is_out_of_memory, _causes(error))):
            log.warning("the GPU ran out of memory: %s", str(error))  # as text, without its frames
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

    def _free_memory(self, before: int) -> type[OutOfMemory]:
        """Release memory, and return the error that says whether enough of it came back."""
        try:
            self._memory.release()
            missing = before - self._memory.available()
        except RuntimeError as error:
            raise GpuFault from error
        return MemoryNotFreed if missing > MAX_KEPT_BYTES else OutOfMemory


def _is_lost(error: BaseException) -> bool:
    return isinstance(error, torch.AcceleratorError) or _LOST.search(str(error)) is not None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and its causes, since compiled code wraps the errors of its kernels."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
