"""Joint products: the same numbers as the separate ones, and the same memory and names."""

import pytest
import torch

from kontext.inference.blocks import DoubleBlock, SingleBlock
from kontext.inference.plan import EXACT, Plan
from tests.support.editors import lora
from tests.support.transformers import a_call, built, error, output, prepared

PLANS = [
    pytest.param(EXACT, id="bfloat16"),
    pytest.param(Plan(transformer="int8"), id="int8"),
    pytest.param(Plan(transformer="int8 weights"), id="int8-weights"),
    pytest.param(Plan(transformer="float8 weights"), id="float8-weights"),
]


@pytest.mark.parametrize("moved", [False, True], ids=["prepared", "moved"])
@pytest.mark.parametrize("plan", PLANS)
def test_parts_share_the_memory_of_their_joint_weight(plan: Plan, moved: bool) -> None:
    """Joining takes no memory, and a change of a part in place changes the joint product."""
    transformer = prepared(built().to(torch.bfloat16), plan)
    if moved:
        transformer.to(torch.float32)

    for block in (*transformer.transformer_blocks, *transformer.single_transformer_blocks):
        for joint, parts in block.PARTS.items():
            whole = address_range(block.get_submodule(joint).weight)
            reached = whole.start
            for part in parts:
                own = address_range(block.get_submodule(part).weight)
                assert own.start == reached
                reached = own.stop
            assert reached == whole.stop


def address_range(weight: torch.Tensor) -> range:
    stored: torch.Tensor = getattr(weight, "qdata", weight)
    return range(stored.data_ptr(), stored.data_ptr() + stored.nbytes)


@pytest.mark.parametrize("plan", PLANS)
def test_a_joint_product_is_that_of_its_parts(plan: Plan) -> None:
    """Also in 8 bits, because each row has its own scale."""
    transformer = prepared(built().to(torch.bfloat16), plan)
    tokens = torch.randn(1, 40, 128, generator=torch.Generator().manual_seed(0)).bfloat16()

    for block in (*transformer.transformer_blocks, *transformer.single_transformer_blocks):
        for joint, parts in block.PARTS.items():
            whole = block.get_submodule(joint)(tokens)
            apart = torch.cat([block.get_submodule(part)(tokens) for part in parts], dim=-1)
            torch.testing.assert_close(whole, apart)


def test_every_weight_of_diffusers_keeps_its_name() -> None:
    """The only additions are the joint linears."""
    theirs = built()
    before, after = theirs.state_dict(), prepared(theirs).state_dict()
    joint = {*DoubleBlock.PARTS, *SingleBlock.PARTS}

    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    assert {name.split(".", 2)[2].rsplit(".", 1)[0] for name in after.keys() - before} == joint


def test_a_lora_on_any_linear_of_a_block_has_the_effect_it_has_in_diffusers() -> None:
    """Also on one part of a joint product, whose other parts are unchanged."""
    theirs, ours = (
        built(num_layers=1, num_single_layers=1),
        prepared(built(num_layers=1, num_single_layers=1)),
    )
    call = a_call(theirs)
    without = output(theirs, call)
    linears = [
        name
        for name, layer in theirs.named_modules()
        if isinstance(layer, torch.nn.Linear) and "transformer_blocks." in name
    ]
    assert len(linears) == 14 + 6
    for name in linears:
        weights = lora(theirs, name)
        for transformer in theirs, ours:
            transformer.load_lora_adapter(dict(weights), prefix=None, adapter_name="one")
        expected = output(theirs, call)
        assert error(output(ours, call), expected) < 1e-6, name
        assert error(expected, without) > 1e-4, name
        for transformer in theirs, ours:
            transformer.unload_lora()
    assert error(output(ours, call), without) < 1e-6
