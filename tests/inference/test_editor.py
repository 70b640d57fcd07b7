"""The editor, with the real pipeline class and tiny random weights."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import flux_model
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from kontext.contract.size import Size
from kontext.errors import Cancelled, GpuFault, OutOfMemory
from kontext.images import reference
from kontext.inference.autoencoder import postprocess_in_float32
from kontext.inference.edit import Edit
from kontext.inference.editor import Editor
from kontext.inference.model import Model
from tests.support.edits import SMALL, done, edit_of, noise_image

TRUE_CFG_SCALE = 2.5


class Calls(list[dict[str, Any]]):
    """The arguments of the transformer's calls."""

    def grids(self) -> tuple[list[int], list[int]]:
        """Return the token grids, height and width, of the output and of the reference."""
        ids = self[0]["img_ids"].float()
        sizes = [ids[ids[:, 0] == part].max(0).values[1:] + 1 for part in (0, 1)]
        return sizes[0].int().tolist(), sizes[1].int().tolist()


@pytest.fixture(scope="module")
def tiny() -> Model:
    """The tiny pipeline, built once."""
    loaded = Model(flux_model.pipeline(), "random", "none")
    loaded.pipeline.set_progress_bar_config(disable=True)
    return loaded


@pytest.fixture(scope="module")
def editor(tiny: Model) -> Editor:
    """An editor of the tiny pipeline."""
    return Editor(tiny, TRUE_CFG_SCALE)


@pytest.fixture(scope="module")
def bfloat16() -> Model:
    """The tiny pipeline in bfloat16, as on a GPU."""
    loaded = Model(flux_model.pipeline().to(torch.bfloat16), "random", "none")
    postprocess_in_float32(loaded.pipeline)
    loaded.pipeline.set_progress_bar_config(disable=True)
    return loaded


@contextmanager
def recorded(model: Model) -> Iterator[Calls]:
    """Record the calls of the transformer within."""
    calls = Calls()

    def record(_module: object, _positional: object, named: dict[str, Any]) -> None:
        calls.append(named)

    hook = model.pipeline.transformer.register_forward_pre_hook(record, with_kwargs=True)
    yield calls
    hook.remove()


@pytest.fixture
def calls(tiny: Model) -> Iterator[Calls]:
    """Record every call of the tiny pipeline's transformer."""
    with recorded(tiny) as calls:
        yield calls


def an_edit(size: Size = SMALL, source: Image.Image | None = None, **other: Any) -> Edit:
    """Return a small edit of two steps."""
    fitted = reference.fit(source or noise_image(), size)
    return edit_of(size, **{"reference": fitted, "num_inference_steps": 2, **other})


side = st.integers(min_value=256, max_value=512)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(side, side)
@example(256, 2368)
@example(2368, 256)
@example(1472, 1140)
@example(1328, 1328)
@example(672, 1568)
@example(257, 271)
def test_the_result_has_exactly_the_pixels_asked_for(
    editor: Editor, width: int, height: int
) -> None:
    """For every size, on the 16-pixel grid or off it."""
    edit = an_edit(Size(width, height), num_inference_steps=1)

    assert editor.edit(edit, lambda _: None).size == (width, height)


@pytest.mark.parametrize("size", [Size(512, 512), Size(368, 285), Size(1024, 576)], ids=str)
def test_equal_aspects_share_the_token_grid(editor: Editor, calls: Calls, size: Size) -> None:
    """Output and reference have the same grid, so nothing is cropped or zoomed."""
    done(editor, an_edit(size, noise_image(size.width * 2, size.height * 2), num_inference_steps=1))

    output, reference_grid = calls.grids()
    assert output == reference_grid == [size.grid.height // 16, size.grid.width // 16]


def test_other_aspects_keep_the_reference_whole(editor: Editor, calls: Calls) -> None:
    """A wide reference stays wide beside a square output of the same area."""
    done(editor, an_edit(Size(512, 512), noise_image(800, 400), num_inference_steps=1))

    output, reference_grid = calls.grids()
    assert output == [32, 32]
    assert reference_grid == [23, 46]  # 724 * 362 pixels: half as high, the same area


def test_the_same_seed_gives_the_same_pixels(editor: Editor) -> None:
    """Another seed gives another image."""
    edit = an_edit()

    assert done(editor, edit) == done(editor, edit)
    assert done(editor, edit) != done(editor, dataclasses.replace(edit, seed=8))


def test_the_largest_seed_works(editor: Editor) -> None:
    """The random generator accepts the contract's largest seed."""
    assert done(editor, an_edit(seed=2**63 - 1))


def test_noise_is_drawn_on_the_cpu(editor: Editor, calls: Calls) -> None:
    """The first latents are those of the CPU's generator, the same for every GPU model."""
    done(editor, an_edit(num_inference_steps=1, seed=7))

    noise = torch.randn((1, 16, 32, 32), generator=torch.Generator("cpu").manual_seed(7))
    packed = noise.view(1, 16, 16, 2, 16, 2).permute(0, 2, 4, 1, 3, 5).reshape(1, 256, 64)
    torch.testing.assert_close(calls[0]["hidden_states"][:, :256], packed)


def test_the_prompt_changes_the_image(editor: Editor) -> None:
    """Another prompt gives another image."""
    assert done(editor, an_edit()) != done(editor, an_edit(prompt="make it red"))


def test_a_negative_prompt_works_and_doubles_the_calls(editor: Editor, calls: Calls) -> None:
    """It changes the image and takes two transformer calls a step; a blank one does neither."""
    plain = done(editor, an_edit(num_inference_steps=3))
    assert len(calls) == 3
    blank = done(editor, an_edit(num_inference_steps=3, negative_prompt=" "))
    assert len(calls) == 6
    negative = done(editor, an_edit(num_inference_steps=3, negative_prompt="red"))
    assert len(calls) == 12

    assert plain == blank != negative


def test_noise_levels_are_the_pipelines_up_to_one_megapixel_and_lower_beyond(
    editor: Editor, calls: Calls
) -> None:
    """Of 2 steps the second starts at e^mu / (e^mu + 1): mu is 1.15 at 1024*1024, then grows."""
    for size in (Size(1024, 1024), Size(2048, 1024)):
        done(editor, an_edit(size, reference=noise_image()))

    levels = [call["timestep"].item() for call in calls]
    assert levels == pytest.approx([1, 0.7595, 1, 0.8171], abs=1e-4)


@pytest.mark.parametrize("guidance", [0.0, 2.0, 10.0])
def test_guidance_reaches_the_transformer(editor: Editor, calls: Calls, guidance: float) -> None:
    """`guidance` is the distilled guidance scale."""
    done(editor, an_edit(guidance=guidance))

    assert {call["guidance"].item() for call in calls} == {guidance}


def test_steps_are_reported_in_order(editor: Editor) -> None:
    """Once each, from 1."""
    reported: list[int] = []
    editor.edit(an_edit(num_inference_steps=5), reported.append)

    assert reported == [1, 2, 3, 4, 5]


def test_a_cancelled_edit_leaves_the_pipeline_clean(editor: Editor, calls: Calls) -> None:
    """A stop takes effect at the next step, and the next edit is not affected."""
    before = done(editor, an_edit())
    calls.clear()

    def stop(step: int) -> None:
        if step == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        editor.edit(an_edit(num_inference_steps=50), stop)

    assert len(calls) == 2
    assert done(editor, an_edit()) == before


def test_out_of_memory_fails_with_its_sentence(editor: Editor) -> None:
    """The job fails with a public sentence, and the pipeline stays usable."""

    def exhaust(_step: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    with pytest.raises(OutOfMemory, match=r"out of GPU memory at 256\*256") as failure:
        editor.edit(an_edit(), exhaust)

    assert not failure.value.refresh_worker
    assert failure.value.__context__ is None  # or its frames would keep the tensors
    assert done(editor, an_edit())


def test_a_lost_gpu_fails_with_its_sentence_and_asks_for_another_worker(
    tiny: Model, editor: Editor
) -> None:
    """The error of a kernel is raised as `GpuFault`."""

    def lose(_module: object, _inputs: object) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    hook = tiny.pipeline.transformer.register_forward_pre_hook(lose)
    try:
        with pytest.raises(GpuFault, match=r"^The GPU failed") as failure:
            done(editor, an_edit())
    finally:
        hook.remove()

    assert failure.value.refresh_worker
    assert isinstance(failure.value.__cause__, torch.AcceleratorError)


def test_values_that_are_not_finite_are_not_delivered(tiny: Model, editor: Editor) -> None:
    """NaN would be delivered as a black image, and charged."""

    def poison(_module: object, _inputs: object, output: Any) -> Any:
        return (output[0] * float("nan"),)

    hook = tiny.pipeline.transformer.register_forward_hook(poison)
    try:
        with pytest.raises(ArithmeticError, match="not finite"):
            done(editor, an_edit())
    finally:
        hook.remove()


def reference_latents(model: Model, image: Image.Image) -> torch.Tensor:
    """Return the packed latents of an image from the pipeline's own encoder."""
    pipeline = model.pipeline
    pixels = pipeline.image_processor.preprocess(image).to(pipeline.vae.dtype)
    with torch.no_grad():
        latents = pipeline._encode_vae_image(pixels, torch.Generator())
    packed: torch.Tensor = pipeline._pack_latents(latents, 1, 16, *latents.shape[2:])
    return packed


def test_a_reference_is_encoded_in_float32(tiny: Model, bfloat16: Model) -> None:
    """In a bfloat16 pipeline only its latents are rounded; in a float32 one none differs."""
    edit = an_edit(num_inference_steps=1)
    seen = {}
    for model in (tiny, bfloat16):
        with recorded(model) as calls:
            done(Editor(model, TRUE_CFG_SCALE), edit)
        seen[model.pipeline.dtype] = calls[0]["hidden_states"][:, 256:].float()
    assert edit.reference is not None
    exact = reference_latents(with_weights_of(bfloat16), edit.reference)

    def error(latents: torch.Tensor) -> float:
        return float((latents.float() - exact).norm() / exact.norm())

    assert torch.equal(seen[torch.float32], reference_latents(tiny, edit.reference))
    assert error(seen[torch.bfloat16]) < 2.0**-9
    assert error(reference_latents(bfloat16, edit.reference)) > 2.0**-8  # of bfloat16 encoding


def with_weights_of(rounded: Model) -> Model:
    """Return a float32 pipeline whose VAE has the rounded weights of the other."""
    pipeline = flux_model.pipeline()
    pipeline.vae.load_state_dict(rounded.pipeline.vae.state_dict())
    return dataclasses.replace(rounded, pipeline=pipeline)


def test_the_float32_encoder_tiles_as_the_autoencoder_does(tiny: Model) -> None:
    """Where a GPU lacks the memory to encode a large reference whole."""
    large = noise_image(1040, 64)
    whole = Editor(tiny, TRUE_CFG_SCALE).reference_encoder.encode(large)
    tiny.pipeline.vae.enable_tiling()
    try:
        tiled = Editor(tiny, TRUE_CFG_SCALE).reference_encoder.encode(large)
    finally:
        tiny.pipeline.vae.disable_tiling()

    assert whole.shape == tiled.shape == (1, 16, 8, 130)
    assert not torch.equal(whole, tiled)


def test_bytes_are_rounded_from_float32(bfloat16: Model) -> None:
    """The decoder's bfloat16 output is scaled to bytes in float32, and all levels are as likely.

    Scaled in bfloat16, 24.8 % of uniformly distributed values became another byte, 0.19 of a level
    darker in the mean, and in the brightest quarter every second level was three times as likely.
    """
    decoded = torch.linspace(-1, 1, 3 * 256 * 256).reshape(1, 3, 256, 256).to(torch.bfloat16)
    hook = bfloat16.pipeline.vae.decoder.register_forward_hook(lambda *_: decoded)
    try:
        delivered = Editor(bfloat16, TRUE_CFG_SCALE).edit(
            an_edit(num_inference_steps=1), lambda _: None
        )
    finally:
        hook.remove()
    levels = np.asarray(delivered).astype(int)
    exact = (decoded[0].permute(1, 2, 0).float().numpy() + 1) * 127.5
    counts = np.bincount(levels.ravel(), minlength=256)[1:-1]  # the outermost are half as wide

    assert np.abs(levels - exact).max() <= 0.5
    assert abs((levels - exact).mean()) < 0.01
    assert 0.75 < counts.min() / counts.mean() < counts.max() / counts.mean() < 1.25


def test_an_image_generated_at_another_size_is_scaled_to_the_one_asked_for(editor: Editor) -> None:
    """First the padding to the grid is cropped, then the image is scaled with Lanczos."""
    generated = Size(290, 270)
    edit = an_edit(generated, noise_image(290, 270))
    plain = editor.edit(edit, lambda _: None)
    scaled = editor.edit(
        dataclasses.replace(edit, size=Size(100, 93), generated=generated), lambda _: None
    )

    assert scaled.tobytes() == plain.resize((100, 93), Image.Resampling.LANCZOS).tobytes()


def test_the_crop_keeps_the_upper_left(editor: Editor) -> None:
    """Off the grid, the padding at the right and below is cropped."""
    inside = editor.edit(an_edit(Size(250, 250), noise_image(250, 250)), lambda _: None)
    canvas = editor.edit(
        an_edit(SMALL, reference.fit(noise_image(250, 250), Size(250, 250))), lambda _: None
    )

    assert inside.tobytes() == canvas.crop((0, 0, 250, 250)).tobytes()


def test_without_a_reference_the_prompt_alone_makes_the_image(editor: Editor, tiny: Model) -> None:
    """No token of an image is read, the prompt and the seed count, and the next edit is clean."""
    edit = an_edit()
    before = done(editor, edit)
    generated = dataclasses.replace(edit, reference=None)
    with recorded(tiny) as calls:
        first = done(editor, generated)

    tokens = SMALL.tokens
    assert [call["hidden_states"].shape[1] for call in calls] == [tokens] * len(calls)
    assert first == done(editor, generated) != before
    assert done(editor, dataclasses.replace(generated, seed=8)) != first
    assert done(editor, edit) == before
