"""Computes attention with each kernel that a plan may name.

All kernels take query, key and value as batch x tokens x heads x head width and return the same
shape. The linears before and after use it too, so nothing is copied. Does not know blocks or plans.
"""

from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, activate_flash_attention_impl, sdpa_kernel

from kontext.inference.plan import Attention, Float8Attention

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def kernel(name: Attention | Float8Attention) -> Attend:
    """Return the attention kernel of that name; activate FlashAttention 3 if it needs it.

    Raises:
        ImportError: The kernel needs FlashAttention 3, which is not installed.
    """
    if name.startswith("flash 3"):
        activate_flash_attention_impl("FA3")
    return _KERNELS[name]


def has_flash_attention_3() -> bool:
    """Return whether FlashAttention 3 is installed."""
    return find_spec("flash_attn_interface") is not None


def _torch(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    attended = functional.scaled_dot_product_attention(
        query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    )
    return attended.transpose(1, 2)


def _cudnn(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return _torch(query, key, value)


def _flash_3(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):  # which `kernel` replaced by version 3
        return _torch(query, key, value)


@torch.library.custom_op("kontext::flash_3_float8", mutates_args=())
def _flash_3_float8(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Quantise each head to float8 (E4M3) and attend; the compiler does not look inside."""
    from torchao.prototype.attention.fp8_fa3.attention import fp8_fa3_sdpa  # noqa: PLC0415 - CUDA

    attended = fp8_fa3_sdpa(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
    return attended.transpose(1, 2).contiguous()  # type: ignore[no-any-return]


@_flash_3_float8.register_fake
def _(query: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
    return query.new_empty(query.shape)


_KERNELS: dict[str, Attend] = {
    "torch": _torch,
    "cudnn": _cudnn,
    "flash 3": _flash_3,
    "flash 3 float8": _flash_3_float8,
}
