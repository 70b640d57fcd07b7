"""Attention kernels: the shape that they share, and the values of attention's definition."""

import pytest
import torch

from kontext.inference import attention


def heads(seed: int, tokens: int = 5) -> torch.Tensor:
    """Return 1 x tokens x 2 heads x 8."""
    return torch.randn(1, tokens, 2, 8, generator=torch.Generator().manual_seed(seed))


def test_the_default_kernel_computes_softmax_attention() -> None:
    """In batch x tokens x heads x head width, head by head."""
    query, key, value = heads(0), heads(1), heads(2)
    weights = torch.einsum("bqhd,bkhd->bhqk", query, key).div(8**0.5).softmax(-1)
    expected = torch.einsum("bhqk,bkhd->bqhd", weights, value)

    attended = attention.kernel("torch")(query, key, value)

    torch.testing.assert_close(attended, expected)


def test_the_keys_may_be_more_than_the_queries() -> None:
    """The result has a token for each query."""
    attended = attention.kernel("torch")(heads(0, tokens=3), heads(1, tokens=7), heads(2, tokens=7))

    assert attended.shape == (1, 3, 2, 8)


def test_the_compiler_knows_the_shape_of_float8_attention() -> None:
    """It traces the kernel without running it, here on a machine that could not."""
    meta = [torch.empty(1, 5, 2, 8, dtype=torch.bfloat16, device="meta") for _ in range(3)]

    attended = torch.ops.kontext.flash_3_float8(*meta)

    assert (attended.shape, attended.dtype) == (meta[0].shape, torch.bfloat16)


@pytest.mark.skipif(attention.has_flash_attention_3(), reason="FlashAttention 3 is installed")
def test_a_kernel_that_is_not_installed_is_an_import_error() -> None:
    """It is not replaced by another one silently."""
    with pytest.raises(ImportError):
        attention.kernel("flash 3")
