"""The parts of the comparison with the reference implementation that need no checkout of it."""

from pathlib import Path

import flux_model
import pytest
import torch
from diffusers import FluxTransformer2DModel
from reference_check import check, conversion


@pytest.fixture(scope="module")
def transformer() -> FluxTransformer2DModel:
    return flux_model.pipeline().transformer


def test_a_folder_that_is_no_checkout_is_refused_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The sentence names the variable, what it must be, and what it was."""
    assert check.main([str(tmp_path)]) == 2
    assert capsys.readouterr() == (
        "",
        "BFL must name a checkout of https://github.com/black-forest-labs/flux, "
        f"got '{tmp_path}'\n",
    )


def test_every_weight_of_the_transformer_is_converted_there_and_back(
    transformer: FluxTransformer2DModel,
) -> None:
    """No weight is left out, and none is changed by the conversion there and back."""
    ours = transformer.state_dict()
    rules = conversion.transformer_rules(double=1, single=1)
    theirs = conversion.to_theirs(ours, rules)
    returned = conversion.to_ours(theirs, rules, ours)

    assert returned.keys() == ours.keys()
    assert all(torch.equal(returned[name], ours[name]) for name in ours)


def test_joined_and_swapped_weights_are_where_the_reference_has_them(
    transformer: FluxTransformer2DModel,
) -> None:
    """Query, key and value are one matrix there; the last modulation is shift before scale."""
    ours = transformer.state_dict()
    theirs = conversion.to_theirs(ours, conversion.transformer_rules(double=1, single=1))
    scale, shift = ours["norm_out.linear.weight"].chunk(2)
    parts = [ours[f"transformer_blocks.0.attn.to_{part}.weight"] for part in "qkv"]

    assert torch.equal(theirs["double_blocks.0.img_attn.qkv.weight"], torch.cat(parts))
    assert torch.equal(theirs["final_layer.adaLN_modulation.1.weight"], torch.cat([shift, scale]))


def test_the_decoders_levels_are_counted_from_the_other_end() -> None:
    """The attention in its middle is a 1x1 convolution there."""
    theirs = {
        "decoder.up.3.block.0.nin_shortcut.weight": torch.randn(4, 8, 1, 1),
        "decoder.mid.attn_1.proj_out.weight": torch.randn(4, 4, 1, 1),
    }
    rules = conversion.autoencoder_rules(theirs)
    names = [rule.ours[0] for rule in rules]
    shapes = dict(zip(names, theirs.values(), strict=True))
    ours = conversion.to_ours(theirs, rules, shapes)

    assert names == [
        "decoder.up_blocks.0.resnets.0.conv_shortcut.weight",
        "decoder.mid_block.attentions.0.to_out.0.weight",
    ]
    assert [tensor.ndim for tensor in ours.values()] == [4, 2]
    assert all(
        torch.equal(tensor, theirs[n]) for n, tensor in conversion.to_theirs(ours, rules).items()
    )
