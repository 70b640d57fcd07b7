"""The transformer in fewer kernels: the numbers of diffusers' own, and its weights."""

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torchao.quantization.quant_api
from codegen_check import subject
from diffusers import FluxKontextPipeline, FluxTransformer2DModel
from PIL import ImageChops
from torch._dynamo.utils import counters
from torch._subclasses.fake_tensor import FakeTensorMode

from kontext.inference import acceleration, model, stand_in
from kontext.inference.blocks import DoubleBlock, SingleBlock
from kontext.inference.editor import Editor
from kontext.inference.model import Model
from kontext.inference.plan import EXACT, Plan
from kontext.inference.weights import Weights
from tests.inference.test_acceleration import an_edit, lora

TEXT_TOKENS = 64


def built(**other: Any) -> FluxTransformer2DModel:
    """Return diffusers' transformer, small, whose gates are open so that each block counts."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "num_layers": 2,
        "num_single_layers": 4,
        "attention_head_dim": 32,
        "num_attention_heads": 4,
        "joint_attention_dim": 64,
        "pooled_projection_dim": 32,
        "axes_dims_rope": (8, 12, 12),
    }
    transformer = FluxTransformer2DModel(guidance_embeds=True, **settings | other).eval()
    for name, layer in transformer.named_modules():
        if ".norm" in name and name.endswith(".linear"):
            layer.bias.data.fill_(1.0)
    return transformer


def prepared(transformer: FluxTransformer2DModel, plan: Plan = EXACT) -> Any:
    """Return a copy as the worker computes it."""
    pipeline: Any = SimpleNamespace(
        transformer=copy.deepcopy(transformer),
        text_encoder_2=torch.nn.Module(),
        device=torch.device("cpu"),
    )
    acceleration.prepare(pipeline, plan)
    return pipeline.transformer


def a_call(transformer: FluxTransformer2DModel, seed: int = 1, **other: Any) -> dict[str, Any]:
    """Return what the pipeline passes, for an image of 16 x 12 tokens; the same for each dtype."""
    generator, dtype = torch.Generator().manual_seed(seed), transformer.dtype
    config = transformer.config

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).bfloat16().to(dtype)

    rows, columns = torch.arange(16.0), torch.arange(12.0)
    return {
        "hidden_states": normal(1, 192, 64),
        "encoder_hidden_states": normal(1, TEXT_TOKENS, config.joint_attention_dim),
        "pooled_projections": normal(1, config.pooled_projection_dim),
        "timestep": torch.tensor([0.5], dtype=dtype),
        "guidance": torch.tensor([2.5]),
        "img_ids": torch.cartesian_prod(torch.zeros(1), rows, columns),
        "txt_ids": torch.zeros(TEXT_TOKENS, 3),
        "joint_attention_kwargs": None,
        "return_dict": False,
    } | other


@torch.no_grad()
def output(transformer: FluxTransformer2DModel, call: dict[str, Any]) -> torch.Tensor:
    return transformer(**call)[0].float()  # type: ignore[no-any-return]


def error(of: torch.Tensor, against: torch.Tensor) -> float:
    return float((of - against).norm() / against.norm())


# --- The numbers


def test_in_float32_the_output_is_that_of_diffusers() -> None:
    """To rounding; another prompt's is far away."""
    theirs = built()
    call = a_call(theirs)
    expected = output(theirs, call)

    assert error(output(prepared(theirs), call), expected) < 1e-6
    assert error(output(theirs, a_call(theirs, seed=2)), expected) > 0.1


def test_in_bfloat16_the_error_is_that_of_diffusers() -> None:
    """Both against float32: the same roundings, in the same places."""
    exact, theirs = built(), built().to(torch.bfloat16)
    expected = output(exact, a_call(exact))
    call = a_call(theirs)

    assert error(output(prepared(theirs), call), expected) < 1.02 * error(
        output(theirs, call), expected
    )


def test_within_an_edit_each_step_is_that_of_a_call_by_itself() -> None:
    """Whatever the step, and for each branch of guidance; what the steps share is computed once."""
    transformer = prepared(built())
    embedded: list[int] = []
    transformer.context_embedder.register_forward_hook(lambda *_: embedded.append(1))
    scheduler = SimpleNamespace(timesteps=torch.tensor([900.0, 500.0, 60.0]), step_index=None)
    prompts = [a_call(transformer, seed) for seed in (3, 4)]
    shared = []
    with transformer.one_edit(scheduler):
        for step in range(3):
            scheduler.step_index = step
            shared += [output(transformer, prompt) for prompt in prompts]
    assert len(embedded) == len(prompts)

    alone = [
        output(transformer, prompt | {"timestep": timestep.reshape(1) / 1000})
        for timestep in scheduler.timesteps
        for prompt in prompts
    ]
    assert max(map(error, shared, alone)) < 1e-6
    assert min(map(error, alone[2:], alone[:-2])) > 1e-3


def test_one_edit_leaves_nothing_for_the_next() -> None:
    """However it ended: the next prompt may get the memory, and so the id, of the last."""
    transformer = prepared(built())
    scheduler = SimpleNamespace(timesteps=torch.tensor([500.0]), step_index=None)
    call = a_call(transformer)
    with transformer.one_edit(scheduler):
        output(transformer, call)
    call["encoder_hidden_states"].mul_(2)
    with transformer.one_edit(scheduler):
        second = output(transformer, call)

    assert torch.equal(second, output(transformer, call))


@pytest.mark.parametrize("negative_prompt", ["", "a cat"])
def test_the_stand_in_paints_what_it_paints_in_diffusers(negative_prompt: str) -> None:
    """A whole edit, with and without guidance; where rounding differs, by one level of 255."""
    plain = FluxKontextPipeline.from_pretrained(stand_in.WEIGHTS, dtype=torch.float32)
    weights = Weights(stand_in.WEIGHTS, "none")
    ours = model.load("stand-in", weights, device="cpu", dtype=torch.float32).pipeline
    edit = an_edit(prompt="make it sepia", negative_prompt=negative_prompt, num_inference_steps=4)
    images = []
    for pipeline in plain, ours:
        pipeline.set_progress_bar_config(disable=True)
        editor = Editor(Model(pipeline, "stand-in", "none"), true_cfg_scale=2.5)
        images.append(editor.edit(edit, lambda _: None))

    assert images[0].getextrema() != edit.reference.getextrema()
    difference = ImageChops.difference(*images)
    assert max(difference.tobytes()) <= 1


# --- The weights


PLANS = [
    pytest.param(EXACT, id="bfloat16"),
    pytest.param(Plan(transformer="int8"), id="int8"),
    pytest.param(Plan(transformer="int8 weights"), id="int8-weights"),
    pytest.param(Plan(transformer="float8 weights"), id="float8-weights"),
]


@pytest.mark.parametrize("moved", [False, True], ids=["prepared", "moved"])
@pytest.mark.parametrize("plan", PLANS)
def test_parts_share_the_memory_of_their_joint_weight(plan: Plan, moved: bool) -> None:
    """So joining costs none, and a part that is changed in place changes the product."""
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
    """Also in 8 bits: scales belong to rows."""
    transformer = prepared(built().to(torch.bfloat16), plan)
    tokens = torch.randn(1, 40, 128, generator=torch.Generator().manual_seed(0)).bfloat16()

    for block in (*transformer.transformer_blocks, *transformer.single_transformer_blocks):
        for joint, parts in block.PARTS.items():
            whole = block.get_submodule(joint)(tokens)
            apart = torch.cat([block.get_submodule(part)(tokens) for part in parts], dim=-1)
            torch.testing.assert_close(whole, apart)


def test_every_weight_of_diffusers_keeps_its_name() -> None:
    """What is new are the joint linears."""
    theirs = built()
    before, after = theirs.state_dict(), prepared(theirs).state_dict()
    joint = {*DoubleBlock.PARTS, *SingleBlock.PARTS}

    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    assert {name.split(".", 2)[2].rsplit(".", 1)[0] for name in after.keys() - before} == joint


def test_a_lora_on_any_linear_of_a_block_has_the_effect_it_has_in_diffusers() -> None:
    """Also on one part of a joint product, whose other parts stay as they are."""
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


# --- The graphs, at real width


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("precision", ["bfloat16", "float8"])
def test_two_graphs_serve_every_length_and_both_branches(
    precision: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At real width, without its memory: tensors are fake. One graph for each kind of block."""
    monkeypatch.setattr(torchao.quantization.quant_api, "_check_hardware_support", lambda *_: None)
    with FakeTensorMode():
        transformer = subject.transformer(2, "cpu")
        pipeline: Any = SimpleNamespace(
            transformer=transformer, text_encoder_2=torch.nn.Module(), device=torch.device("cpu")
        )
        acceleration.prepare(pipeline, Plan(transformer=precision))
        acceleration.compile(pipeline, backend="eager")
        graphs = [
            graphs_after_an_edit(transformer, image_tokens)
            for image_tokens in (8192, 4096 + 3000, 512, 1024 + 128, 22_000)
        ]

    assert graphs == [2] * 5
    assert not counters["graph_break"]


def graphs_after_an_edit(transformer: Any, image_tokens: int) -> int:
    """Call it as an edit of two steps with guidance does; return the graphs so far."""
    scheduler = SimpleNamespace(timesteps=torch.empty(2), step_index=0)
    with transformer.one_edit(scheduler), torch.no_grad():
        prompts = [torch.empty(1, 768, dtype=torch.bfloat16) for _ in range(2)]
        for step in range(2):
            scheduler.step_index = step
            for pooled in prompts:
                transformer(**subject.inputs(image_tokens, "cpu") | {"pooled_projections": pooled})
    return counters["stats"]["unique_graphs"]
