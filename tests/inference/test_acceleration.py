"""Quantisation, compilation and predicted steps: what they change, and what they must not."""

import copy
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import flux_model
import pytest
import torch
from diffusers import FluxKontextPipeline, FluxTransformer2DModel
from PIL import Image
from safetensors.torch import save_file
from torch._dynamo.utils import counters
from torchao.utils import TorchAOBaseTensor

from kontext.contract.size import Size
from kontext.errors import Cancelled
from kontext.inference import acceleration, model
from kontext.inference.edit import Edit
from kontext.inference.editor import Editor
from kontext.inference.plan import EXACT, Plan, Precision
from kontext.inference.warm_up import warm_up
from kontext.inference.weights import Weights
from tests.support.editors import FAST, TURBO, editor_for, lora, pipeline_of
from tests.support.edits import an_edit, done

HAS_FLOAT8 = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 9)
needs_float8 = pytest.mark.skipif(not HAS_FLOAT8, reason="no card that computes float8")
DEVICE = "cuda" if HAS_FLOAT8 else "cpu"

SMALL_FAST = replace(FAST, transformer="int8 weights", modulation="int8 weights", streamed=True)

each_mode = pytest.mark.parametrize(
    "plan",
    [
        pytest.param(EXACT, id="exact"),
        pytest.param(FAST, id="fast"),
        pytest.param(SMALL_FAST, id="fast-in-little-memory"),
        pytest.param(TURBO, id="turbo"),
    ],
)


def quantised(module: torch.nn.Module) -> set[str]:
    """Return the names of the quantised layers."""
    return {
        name
        for name, layer in module.named_modules()
        if isinstance(getattr(layer, "weight", None), TorchAOBaseTensor)
    }


# --- Every mode


@each_mode
def test_two_runs_of_one_mode_give_the_same_bytes(plan: Plan) -> None:
    """Also with true classifier-free guidance, and with another edit in between."""
    editor, guided = editor_for(plan), an_edit(negative_prompt="a cat")
    first = [done(editor, an_edit()), done(editor, guided)]

    assert [done(editor, an_edit()), done(editor, guided)] == first
    assert first[0] != first[1]


@each_mode
def test_the_noise_of_a_seed_is_the_same_in_every_mode(plan: Plan) -> None:
    """The first step reads the noise of the CPU's generator, rounded to bfloat16."""
    editor, entered = editor_for(plan), []
    embedder = pipeline_of(editor).transformer.x_embedder
    embedder.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))
    done(editor, an_edit(num_inference_steps=1, seed=7))

    noise = torch.randn((1, 16, 32, 32), generator=torch.Generator().manual_seed(7))
    packed = noise.view(1, 16, 16, 2, 16, 2).permute(0, 2, 4, 1, 3, 5).reshape(1, 256, 64)
    assert torch.equal(entered[0][:, :256], packed.bfloat16())


@each_mode
@pytest.mark.parametrize("last", [2, 5])
def test_a_cancelled_or_failed_job_leaves_no_trace(plan: Plan, last: int) -> None:
    """It ends after the step that stops it, and the next image is that of a new pipeline."""
    editor, seen = editor_for(plan), []
    clean = [done(editor, an_edit()), done(editor, an_edit(negative_prompt="a cat"))]

    for failure, negative_prompt in (Cancelled, "a cat"), (ArithmeticError, ""):

        def stop(step: int, failure: type[Exception] = failure) -> None:
            seen.append(step)
            if step == last:
                raise failure

        with pytest.raises(failure):
            editor.edit(an_edit(Size(272, 304), negative_prompt=negative_prompt), stop)
        assert [done(editor, an_edit()), done(editor, an_edit(negative_prompt="a cat"))] == clean

    assert seen == [*range(1, last + 1)] * 2


@each_mode
def test_a_lora_has_its_effect_in_every_mode(plan: Plan, tmp_path: Path) -> None:
    """Also on one part of a joint product; after unloading, the image is the former one."""
    editor = editor_for(plan)
    before = done(editor, an_edit())

    for layer in ("transformer_blocks.0.attn.to_q", "single_transformer_blocks.0.proj_mlp"):
        write_lora(pipeline_of(editor), layer, tmp_path / "lora.safetensors")
        pipeline_of(editor).load_lora_weights(tmp_path, weight_name="lora.safetensors")
        with_lora = done(editor, an_edit())
        pipeline_of(editor).unload_lora_weights()

        assert with_lora != before
        assert done(editor, an_edit()) == before


def write_lora(pipeline: FluxKontextPipeline, layer: str, path: Path) -> None:
    weights = lora(pipeline.transformer, layer)
    save_file({f"transformer.{name}": weight for name, weight in weights.items()}, path)


# --- Compiled


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize(
    "plan",
    [
        pytest.param(EXACT, id="exact"),
        pytest.param(replace(TURBO, modulation="int8 weights"), id="turbo-of-both-int8"),
    ],
)
def test_after_the_warm_up_nothing_is_compiled_again(plan: Plan) -> None:
    """For any size, reference, prompt and negative prompt; `eager` traces as other backends do."""
    editor = editor_for(plan)
    acceleration.compile(pipeline_of(editor), backend="eager")
    warm_up(editor)
    graphs = counters["stats"]["unique_graphs"]

    def serve() -> None:
        with torch._dynamo.config.patch(error_on_recompile=True):
            for edit in varied_edits():
                done(editor, edit)

    with ThreadPoolExecutor(1) as another_thread:
        another_thread.submit(serve).result()
    assert counters["stats"]["unique_graphs"] == graphs > 0


def varied_edits() -> Iterator[Edit]:
    """Yield 32 edits of different sizes, references or none, prompts and negative prompts."""
    for index in range(32):
        width, height = 256 + 16 * (index * 5 % 13), 256 + 16 * (index * 7 % 11)
        other = (256 + 16 * (index % 5), 256 + 16 * (index % 3))
        reference = Image.new("RGB", (width, height) if index % 2 else other)
        yield an_edit(
            Size(width, height),
            reference=reference if index % 8 else None,
            prompt="blue " * (1 + 8 * index),
            negative_prompt="red " * (index % 3),
            num_inference_steps=1,
        )


@pytest.mark.usefixtures("fresh_compiler")
def test_a_lora_has_its_effect_on_compiled_blocks(tmp_path: Path) -> None:
    """They are traced again with it, and once more without it."""
    editor = editor_for(FAST)
    acceleration.compile(pipeline_of(editor), backend="eager")
    before = done(editor, an_edit())
    write_lora(pipeline_of(editor), "transformer_blocks.0.attn.to_q", tmp_path / "lora.safetensors")
    pipeline_of(editor).load_lora_weights(tmp_path, weight_name="lora.safetensors")

    assert done(editor, an_edit()) != before
    pipeline_of(editor).unload_lora_weights()
    assert done(editor, an_edit()) == before


# --- Quantised


def test_only_the_blocks_and_t5_are_quantised() -> None:
    """An error in embedders or the last projection reaches every token; adaLN is quantised last."""
    fast, small = (pipeline_of(editor_for(plan)) for plan in (FAST, SMALL_FAST))
    linears = {
        name
        for name, layer in fast.transformer.named_modules()
        if isinstance(layer, torch.nn.Linear) and "transformer_blocks." in name
    }
    modulation = {name for name in linears if ".norm" in name}

    assert modulation == {
        "transformer_blocks.0.norm1.linear",
        "transformer_blocks.0.norm1_context.linear",
        "single_transformer_blocks.0.norm.linear",
    }
    assert quantised(fast.transformer) == linears - modulation
    assert quantised(small.transformer) == linears
    assert len(quantised(fast.text_encoder_2)) == 7  # attention 4, gated network 3
    assert quantised(fast.text_encoder) == quantised(fast.vae) == set()


@each_mode
def test_weights_from_disk_make_the_image_of_weights_quantised_in_place(
    plan: Plan, tmp_path: Path
) -> None:
    """Whether they are moved to the device layer by layer or whole."""
    expected = editor_for(plan)
    flux_model.pipeline().to(torch.bfloat16).save_pretrained(tmp_path)
    loaded = model.load("tiny", Weights(tmp_path, "none"), plan, device="cpu")
    loaded.pipeline.set_progress_bar_config(disable=True)
    editor = Editor(loaded, true_cfg_scale=2.5)

    assert (editor.mode, loaded.plan) == (plan.mode, plan)
    assert done(editor, an_edit()) == done(expected, an_edit())


@pytest.mark.parametrize("precision", ["int8 weights", "int8", "float8 weights"])
def test_a_quantised_weight_is_a_byte_and_close(precision: Precision) -> None:
    """It is off by half a step at most, of 127 a row for integers and of 8 an octave for float8."""
    plan = Plan(transformer=precision)
    before, after = (
        pipeline_of(editor_for(each)).transformer.transformer_blocks[0].ff.net[2].weight
        for each in (EXACT, plan)
    )
    largest = before.abs().amax(1, keepdim=True).float()
    # The scale is rounded to bfloat16 too.
    allowed = (
        before.abs().float() / 16 + largest / 2**9
        if precision == "float8 weights"
        else largest / 127 / 2 + largest / 2**8
    )

    assert after.qdata.element_size() == 1
    assert (after.dequantize().float() - before.float()).abs().le(allowed).all()


PER_LAYER: dict[Precision, float] = {
    "bfloat16": math.sqrt(10) * 2**-9 / math.sqrt(3),
    "int8 weights": 0.5 / 127,
    "int8": 4 / 127 / math.sqrt(12),
    "float8 weights": 2**-4 / math.sqrt(3),
    "float8": math.sqrt(2) * 2**-4 / math.sqrt(3),
}
"""The relative error, root mean square, that one linear layer adds. bfloat16 rounds to 8 bits about
ten times before the next layer. Weights are evenly distributed: 127 steps reach the largest, which
is sqrt(3) times the mean. Activations are normal: the largest is 4 times the mean. float8 has 3
bits after the point, so an error of at most 2**-4."""

LAYERS = 6 * 4
"""The consecutive layers of six blocks: value, output, and two of the network. Independent errors
grow with the square root of their number."""


def a_step(transformer: FluxTransformer2DModel) -> torch.Tensor:
    """Return the output for inputs that bfloat16 holds exactly, in float32."""
    generator = torch.Generator().manual_seed(1)
    dtype = transformer.dtype

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).bfloat16().to(DEVICE, dtype)

    rows, columns = torch.arange(16.0), torch.arange(16.0)
    with torch.no_grad():
        (output,) = transformer(
            hidden_states=normal(1, 256, 64),
            encoder_hidden_states=normal(1, 64, 256),
            pooled_projections=normal(1, 64),
            timestep=torch.tensor([0.5], device=DEVICE, dtype=dtype),
            guidance=torch.tensor([2.0], device=DEVICE),
            img_ids=torch.cartesian_prod(torch.zeros(1), rows, columns).to(DEVICE),
            txt_ids=torch.zeros(64, 3, device=DEVICE),
            return_dict=False,
        )
    return output.float()  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def transformer() -> FluxTransformer2DModel:
    """Six blocks, wide enough for statistics, with open gates so that each has an effect."""
    torch.manual_seed(0)
    built = FluxTransformer2DModel(
        in_channels=64,
        num_layers=2,
        num_single_layers=4,
        attention_head_dim=64,
        num_attention_heads=8,
        joint_attention_dim=256,
        pooled_projection_dim=64,
        guidance_embeds=True,
        axes_dims_rope=(16, 24, 24),
    ).eval()
    for name, layer in built.named_modules():
        if ".norm" in name and name.endswith(".linear"):
            layer.bias.data.fill_(1.0)
    return built.to(DEVICE)


def error_of(precision: Precision, transformer: FluxTransformer2DModel) -> float:
    """Return the relative error of one step against float32."""
    lower = copy.deepcopy(transformer).to(torch.bfloat16)
    pipeline = SimpleNamespace(
        transformer=lower, text_encoder_2=torch.nn.Module(), device=lower.device
    )
    acceleration.prepare(pipeline, Plan(transformer=precision))
    exact = a_step(transformer)
    return float((a_step(lower) - exact).norm() / exact.norm())


@pytest.mark.parametrize(
    "precision",
    [
        "bfloat16",
        "int8 weights",
        "int8",
        "float8 weights",
        pytest.param("float8", marks=needs_float8),
    ],
)
def test_the_error_of_a_step_is_that_of_its_layers(
    precision: Precision, transformer: FluxTransformer2DModel
) -> None:
    """Each layer adds its own error and that of bfloat16, and none is amplified."""
    per_layer = math.hypot(PER_LAYER["bfloat16"], PER_LAYER[precision])

    assert 0 < error_of(precision, transformer) < per_layer * math.sqrt(LAYERS)


def test_fewer_bits_cost_more(transformer: FluxTransformer2DModel) -> None:
    """The error grows from bfloat16 to int8 weights, int8 activations and float8's three bits."""
    order: list[Precision] = ["bfloat16", "int8 weights", "int8", "float8 weights"]
    errors = [error_of(precision, transformer) for precision in order]

    assert errors == sorted(errors)
    assert len(set(errors)) == len(errors)


@pytest.mark.parametrize("tiled", [True, False], ids=["little-memory", "enough"])
def test_large_images_are_tiled_as_planned(tiled: bool) -> None:
    """And only then, because tiles are blended where they meet."""
    assert pipeline_of(editor_for(replace(EXACT, tiled=tiled))).vae.use_tiling is tiled
