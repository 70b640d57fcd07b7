"""The transformer in fewer kernels: it computes what that of diffusers computes."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torchao.quantization.quant_api
from codegen_check import subject
from diffusers import FluxKontextPipeline
from PIL import ImageChops
from torch._dynamo.utils import counters
from torch._subclasses.fake_tensor import FakeTensorMode

from kontext.inference import acceleration, model, stand_in
from kontext.inference.editor import Editor
from kontext.inference.model import Model
from kontext.inference.plan import Plan
from kontext.inference.weights import Weights
from tests.support.edits import an_edit
from tests.support.transformers import a_call, built, error, output, prepared

# --- The numbers


def test_in_float32_the_output_is_that_of_diffusers() -> None:
    """They differ by rounding only; the output for another prompt differs much more."""
    theirs = built()
    call = a_call(theirs)
    expected = output(theirs, call)

    assert error(output(prepared(theirs), call), expected) < 1e-6
    assert error(output(theirs, a_call(theirs, seed=2)), expected) > 0.1


def test_in_bfloat16_the_error_is_that_of_diffusers() -> None:
    """Both are compared with float32: they round in the same places."""
    exact, theirs = built(), built().to(torch.bfloat16)
    expected = output(exact, a_call(exact))
    call = a_call(theirs)

    assert error(output(prepared(theirs), call), expected) < 1.02 * error(
        output(theirs, call), expected
    )


def test_within_an_edit_each_step_is_that_of_a_call_by_itself() -> None:
    """For each step and prompt, although what the steps share is computed once."""
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
    """The next prompt may be at the address, and so have the id, of the previous one."""
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
    """A whole edit, with and without guidance, differs by at most one level of 255."""
    plain = FluxKontextPipeline.from_pretrained(stand_in.WEIGHTS, dtype=torch.float32)
    weights = Weights(stand_in.WEIGHTS, "none")
    ours = model.load("stand-in", weights, device="cpu", dtype=torch.float32).pipeline
    edit = an_edit(prompt="make it sepia", negative_prompt=negative_prompt, num_inference_steps=4)
    images = []
    for pipeline in plain, ours:
        pipeline.set_progress_bar_config(disable=True)
        editor = Editor(Model(pipeline, "stand-in", "none"), true_cfg_scale=2.5)
        images.append(editor.edit(edit, lambda _: None))

    assert edit.reference is not None
    assert images[0].getextrema() != edit.reference.getextrema()
    difference = ImageChops.difference(*images)
    assert max(difference.tobytes()) <= 1


# --- The compiled graphs, at real width


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("precision", ["bfloat16", "float8"])
def test_two_graphs_serve_every_length_and_both_branches(
    precision: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One for each kind of block, at real width; the tensors are fake and take no memory."""
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
    """Make the calls of an edit of two steps with guidance; return the number of graphs so far."""
    scheduler = SimpleNamespace(timesteps=torch.empty(2), step_index=0)
    with transformer.one_edit(scheduler), torch.no_grad():
        prompts = [torch.empty(1, 768, dtype=torch.bfloat16) for _ in range(2)]
        for step in range(2):
            scheduler.step_index = step
            for pooled in prompts:
                transformer(**subject.inputs(image_tokens, "cpu") | {"pooled_projections": pooled})
    return counters["stats"]["unique_graphs"]
