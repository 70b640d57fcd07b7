"""Define the operations that take most of a transformer's time, on random tensors."""

from collections.abc import Callable, Iterator
from importlib import import_module

import torch
from gpu_subject import Subject
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

Prepare = Callable[..., Callable[[], object]]
"""A function from a device and sizes to an operation on random tensors of these sizes."""


def products(subject: Subject) -> dict[str, Prepare]:
    """Return the precisions that the card multiplies in; on a CPU all, to test the program."""
    known = {"bfloat16": _bfloat16}
    if subject.device == "cpu" or subject.card.capability >= (8, 9):
        known["float8"] = _float8
    if subject.device == "cpu" or subject.card.capability < (8, 9):
        known["int8"] = _int8
    return known


def _bfloat16(device: str, tokens: int, inputs: int, outputs: int) -> Callable[[], object]:
    left, right = _operands(device, tokens, inputs, outputs)
    return lambda: left @ right.T


def _float8(device: str, tokens: int, inputs: int, outputs: int) -> Callable[[], object]:
    """Multiply with a scale for each row of both, and fast accumulation as torchao chooses it."""
    left, right = _operands(device, tokens, inputs, outputs)
    low, lower = left.to(torch.float8_e4m3fn), right.to(torch.float8_e4m3fn)
    scale_a = torch.ones(tokens, 1, device=device)
    scale_b = torch.ones(1, outputs, device=device)
    return lambda: torch._scaled_mm(
        low,
        lower.T,
        scale_a=scale_a,
        scale_b=scale_b,
        out_dtype=torch.bfloat16,
        use_fast_accum=device == "cuda",
    )


def _int8(device: str, tokens: int, inputs: int, outputs: int) -> Callable[[], object]:
    left, right = (
        (16 * each).to(torch.int8) for each in _operands(device, tokens, inputs, outputs)
    )
    return lambda: torch._int_mm(left, right.T)


def _operands(
    device: str, tokens: int, inputs: int, outputs: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a linear layer's input, tokens x inputs, and its weight, outputs x inputs."""
    return (
        torch.randn(tokens, inputs, device=device, dtype=torch.bfloat16),
        torch.randn(outputs, inputs, device=device, dtype=torch.bfloat16),
    )


def _of_torch(backend: SDPBackend) -> Prepare:
    """Return attention by one of torch's kernels, on tensors laid out as in the model."""

    def prepare(device: str, tokens: int, width: int, heads: int) -> Callable[[], object]:
        query, key, value = (each.transpose(1, 2) for each in _heads(device, tokens, width, heads))

        def work() -> torch.Tensor:
            with sdpa_kernel(backend):
                return functional.scaled_dot_product_attention(query, key, value)

        return work

    return prepare


def _flash_3(dtype: torch.dtype) -> Prepare:
    """Return attention by Dao-AILab's FlashAttention 3, which takes heads last but one."""

    def prepare(device: str, tokens: int, width: int, heads: int) -> Callable[[], object]:
        flash_attn_func = import_module("flash_attn_interface").flash_attn_func

        query, key, value = (each.to(dtype) for each in _heads(device, tokens, width, heads))
        return lambda: flash_attn_func(query, key, value)

    return prepare


def _heads(device: str, tokens: int, width: int, heads: int) -> Iterator[torch.Tensor]:
    """Yield query, key and value, each 1 x tokens x heads x head width."""
    for _ in range(3):
        yield torch.randn(1, tokens, heads, width // heads, device=device, dtype=torch.bfloat16)


ATTENTION: dict[str, Prepare] = {
    "cuDNN": _of_torch(SDPBackend.CUDNN_ATTENTION),
    "FlashAttention 2": _of_torch(SDPBackend.FLASH_ATTENTION),
    "FlashAttention 3": _flash_3(torch.bfloat16),
    "FlashAttention 3, float8": _flash_3(torch.float8_e4m3fn),
}
