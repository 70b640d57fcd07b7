"""The meaning of exceptions from the GPU, raised here with the messages of CUDA's libraries."""

import gc
import weakref
from typing import NoReturn

import pytest
import torch

from kontext.errors import Cancelled, GpuFault, MemoryNotFreed, OutOfMemory
from kontext.inference.gpu_faults import MAX_KEPT_BYTES, SCARCE_BYTES, GpuGuard

CUBLAS = "CUDA error: {} when calling `cublasCreate(handle)`"
SENTENCE = "The edit ran out of GPU memory; ask for a smaller size"
LEAST_FREE = SCARCE_BYTES


class FakeMemory:
    """Returns the given amounts of available memory one after another."""

    def __init__(self, *available: int, free: int = LEAST_FREE) -> None:
        self._available = list(available) or [0, 0]
        self._free = free
        self.released = False

    def free(self) -> int:
        return self._free

    def available(self) -> int:
        return self._available.pop(0)

    def release(self) -> None:
        self.released = True


class LostMemory(FakeMemory):
    """The memory of a lost context: every call fails."""

    def release(self) -> NoReturn:
        raise torch.AcceleratorError("CUDA error: unspecified launch failure")


def failing(error: BaseException) -> NoReturn:
    raise error


def meaning(error: BaseException, memory: FakeMemory | None = None) -> BaseException:
    """Return the exception that the guard raises when the work raises `error`."""
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - the test looks at it
        GpuGuard(memory or FakeMemory()).run(lambda: failing(error), SENTENCE)
    return caught.value


def test_what_the_work_returns_is_returned() -> None:
    """After work that succeeds, no memory is released."""
    memory = FakeMemory()

    assert GpuGuard(memory).run(lambda: 7, SENTENCE) == 7
    assert not memory.released


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
        torch.AcceleratorError("CUDA error: device-side assert triggered"),
        RuntimeError("CUDA error: uncorrectable ECC error encountered"),
        RuntimeError(CUBLAS.format("CUBLAS_STATUS_EXECUTION_FAILED")),
        RuntimeError(CUBLAS.format("CUBLAS_STATUS_NOT_INITIALIZED")),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"),
        RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
        RuntimeError("CUDA driver error: device not ready"),
    ],
    ids=str,
)
def test_a_lost_context_is_a_gpu_fault(error: RuntimeError) -> None:
    """It has one public sentence, asks for another worker, and keeps the cause for the log."""
    fault = meaning(error)

    assert isinstance(fault, GpuFault)
    assert str(fault) == GpuFault.sentence
    assert fault.refresh_worker
    assert fault.__cause__ is error


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        torch.AcceleratorError("CUDA error: out of memory"),
        RuntimeError(CUBLAS.format("CUBLAS_STATUS_ALLOC_FAILED")),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
    ],
    ids=str,
)
def test_too_little_memory_keeps_the_worker_if_the_memory_is_freed(
    error: RuntimeError,
) -> None:
    """Whichever library reports it; caches are emptied before the memory is measured."""
    memory = FakeMemory(10 * MAX_KEPT_BYTES, 9 * MAX_KEPT_BYTES)
    failure = meaning(error, memory)

    assert type(failure) is OutOfMemory
    assert str(failure) == SENTENCE
    assert not failure.refresh_worker
    assert memory.released


def test_memory_that_is_not_freed_replaces_the_worker() -> None:
    """Every later edit would lack the memory that an edit has leaked."""
    memory = FakeMemory(10 * MAX_KEPT_BYTES, 9 * MAX_KEPT_BYTES - 1)
    failure = meaning(torch.OutOfMemoryError("CUDA out of memory."), memory)

    assert isinstance(failure, MemoryNotFreed)
    assert str(failure) == SENTENCE
    assert failure.refresh_worker


def test_memory_that_cannot_be_measured_is_a_gpu_fault() -> None:
    """If emptying the caches fails, the context is lost."""
    assert isinstance(
        meaning(torch.OutOfMemoryError("CUDA out of memory."), LostMemory()), GpuFault
    )


def test_a_cublas_without_room_for_its_handle_is_out_of_memory() -> None:
    """Its message is then the same as for a lost context: not initialized."""
    error = RuntimeError(CUBLAS.format("CUBLAS_STATUS_NOT_INITIALIZED"))

    assert isinstance(meaning(error, FakeMemory(free=SCARCE_BYTES - 1)), OutOfMemory)
    assert isinstance(meaning(error, FakeMemory(free=SCARCE_BYTES)), GpuFault)


def test_an_error_that_compiled_code_wraps_is_recognised() -> None:
    """The library's error is the cause of the compiler's."""
    wrapped = RuntimeError("the backend failed")
    wrapped.__cause__ = torch.AcceleratorError("CUDA error: unknown error")

    assert isinstance(meaning(wrapped), GpuFault)


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes do not match"), ArithmeticError("not finite"), Cancelled()]
)
def test_other_errors_pass_unchanged(error: Exception) -> None:
    """They say nothing about the GPU."""
    assert meaning(error) is error


def test_the_tensors_of_failed_work_are_freed_before_memory_is_measured() -> None:
    """While an exception is handled, it keeps its frames alive, and these their tensors."""
    tensors: list[weakref.ref[torch.Tensor]] = []
    alive: list[bool] = []

    class Watching(FakeMemory):
        def release(self) -> None:
            gc.collect()
            alive.append(tensors[0]() is not None)

    def work() -> None:
        held = torch.zeros(1)
        tensors.append(weakref.ref(held))
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(OutOfMemory):
        GpuGuard(Watching()).run(work, SENTENCE)

    assert alive == [False]


def test_a_process_without_cuda_keeps_its_worker() -> None:
    """The stand-in on a laptop has no GPU memory that could be lost."""
    with pytest.raises(OutOfMemory) as failure:
        GpuGuard().run(lambda: failing(torch.OutOfMemoryError("CUDA out of memory.")), SENTENCE)

    assert not failure.value.refresh_worker
