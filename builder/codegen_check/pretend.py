"""Make torch and Triton generate CUDA code on a machine that has no GPU.

Tensors are fake: they have a shape and a device but no memory. torch is given the properties of a
card and compiles code for it, which is never run. This patches torch's internals and depends on the
pinned version: if codegen-check fails after a change of torch, look here first.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
import torch._inductor.config as inductor
import torch._inductor.fx_passes.fuse_attention
import torch._inductor.scheduler
import torch.utils._triton
import torchao.quantization.quant_api
import triton
from torch._dynamo.device_interface import CudaInterface
from torch._inductor.runtime.triton_heuristics import CachingAutotuner
from torch._inductor.utils import fresh_cache
from torch._subclasses.fake_tensor import FakeTensorMode
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.driver import CudaDriver

from codegen_check.cards import Properties


class _Driver(CudaDriver):  # type: ignore[misc]
    """The part of Triton's driver that compilation needs."""

    def __init__(self, properties: Properties) -> None:
        self._target = GPUTarget("cuda", properties.major * 10 + properties.minor, 32)

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return 0

    def get_device_interface(self) -> Any:  # noqa: ANN401
        return torch.cuda


@contextmanager
def card(properties: Properties, on_kernel: Callable[[Any], None] | None) -> Iterator[None]:
    """Pretend within the block that "cuda" is this card and all tensors are fake.

    Args:
        properties: The card's properties.
        on_kernel: Function called with each compiled Triton kernel, PTX and machine code included;
            if None, kernels are generated but not compiled.
    """
    triton.runtime.driver.set_active(_Driver(properties))
    with ExitStack() as stack:
        stack.enter_context(FakeTensorMode())  # first, because it works without a driver
        for target, name, value in _replacements(properties):
            stack.enter_context(mock.patch.object(target, name, value))
        stack.enter_context(_settings())
        if on_kernel is None:
            stack.enter_context(mock.patch.object(CachingAutotuner, "precompile"))
        else:
            knobs.runtime.jit_post_compile_hook = lambda **said: on_kernel(said["compile"])
        yield


@contextmanager
def _settings() -> Iterator[None]:
    """Use an empty cache and one process, and measure nothing."""
    with (
        fresh_cache(),
        inductor.patch(
            compile_threads=1,
            joint_graph_constant_folding=False,
            run_jit_post_compile_hook=True,
        ),
    ):
        yield


def _replacements(properties: Properties) -> Iterator[tuple[Any, str, Any]]:
    """Yield what is patched: the owner, the attribute and its replacement."""
    major, minor = properties.major, properties.minor

    def always(value: object) -> Callable[..., Any]:
        return lambda *_, **__: value

    yield torch.cuda, "is_available", always(True)
    yield torch.cuda, "device_count", always(1)
    yield torch.cuda, "current_device", always(0)
    yield torch.cuda, "get_device_name", always(properties.name)
    yield torch.cuda, "get_device_properties", always(properties)
    yield torch.cuda, "get_device_capability", always((major, minor))
    yield torch.cuda, "synchronize", always(None)
    yield torch.cuda, "_lazy_init", always(None)
    yield torch.cuda, "_exchange_device", always(0)
    yield torch.cuda, "_maybe_exchange_device", always(0)
    yield torch.cuda, "get_rng_state", always(torch.zeros(16, dtype=torch.uint8))
    yield torch.cuda, "set_rng_state", always(None)
    yield torch._C, "_cuda_getCurrentRawStream", always(0)
    yield CudaInterface, "is_available", staticmethod(always(True))
    yield CudaInterface, "get_compute_capability", staticmethod(always(major * 10 + minor))
    yield CudaInterface, "get_device_properties", staticmethod(always(properties))
    yield CudaInterface.Worker, "current_device", staticmethod(always(0))
    yield CudaInterface.Worker, "get_device_properties", staticmethod(always(properties))
    yield torch._inductor.scheduler, "has_triton", always(True)
    yield torch.utils._triton, "has_triton", always(True)
    # It traces patterns with real tensors. Blocks that call attention by name match none of them.
    yield torch._inductor.fx_passes.fuse_attention, "_sfdp_init", always(None)
    yield torchao.quantization.quant_api, "_check_hardware_support", always(None)
    # These would load the compiled kernel onto the card.
    yield CachingAutotuner, "_make_launchers", always(None)
    yield CachingAutotuner, "_dynamic_scale_rblock", always(None)
