"""Loading a pipeline from disk onto its device, and the stand-in that comes with the package."""

from pathlib import Path

import flux_model
import pytest
import torch
from torchao.utils import TorchAOBaseTensor

from kontext import __version__
from kontext.errors import BootError
from kontext.inference import model, stand_in
from kontext.inference.plan import EXACT, Plan
from kontext.inference.weights import Weights

NAME = "black-forest-labs/FLUX.1-Kontext-dev"
TURBO = Plan("turbo", transformer="int8")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    """A tiny pipeline in the Hub's layout."""
    path = tmp_path_factory.mktemp("weights")
    flux_model.pipeline().save_pretrained(path)
    return Weights(path, "f00d")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_machine_without_a_gpu_is_refused_with_what_to_do() -> None:
    """The sentence names the setting that asks for the stand-in."""
    with pytest.raises(BootError, match=r"^no CUDA device is available; .*STAND_IN=model\)$"):
        model.card()


def test_a_loaded_model_knows_what_it_is(weights: Weights) -> None:
    """Its name, revision and plan are what an image's provenance names."""
    loaded = model.load(NAME, weights, device="cpu")

    assert (loaded.name, loaded.revision, loaded.plan) == (NAME, "f00d", EXACT)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_every_component_computes_in_the_precision_asked_for(
    weights: Weights, dtype: torch.dtype
) -> None:
    """A component in another one would fail at the first edit, or make it black."""
    pipeline = model.load(NAME, weights, device="cpu", dtype=dtype).pipeline
    components = pipeline.transformer, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2

    assert [component.dtype for component in components] == [dtype] * 4


def test_the_default_precision_is_bfloat16(weights: Weights) -> None:
    """In float16 FLUX makes black images."""
    assert model.load(NAME, weights, device="cpu").pipeline.dtype is torch.bfloat16


def test_a_plan_is_applied_and_kept(weights: Weights) -> None:
    """Its blocks are quantised; those of the exact plan are not."""
    exact, turbo = (model.load(NAME, weights, plan, device="cpu") for plan in (EXACT, TURBO))

    assert (exact.plan, turbo.plan) == (EXACT, TURBO)
    assert quantised(exact) == 0 < quantised(turbo)


def quantised(loaded: model.Model) -> int:
    """Count the transformer's tensors that are."""
    parameters = loaded.pipeline.transformer.parameters()
    return sum(isinstance(each, TorchAOBaseTensor) for each in parameters)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        pytest.param("vae/config.json", None, id="missing"),
        pytest.param("model_index.json", b"{", id="no-json"),
        pytest.param("transformer/config.json", b"{}", id="of-another-model"),
    ],
)
def test_a_damaged_directory_is_named_in_one_sentence(
    tmp_path: Path, file: str, content: bytes | None
) -> None:
    """Whatever the libraries say of it is the cause, for the log."""
    flux_model.pipeline().save_pretrained(tmp_path)
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_bytes(content)

    with pytest.raises(BootError) as refused:
        model.load(NAME, Weights(tmp_path, "f00d"), device="cpu")
    assert str(refused.value) == f"the weights in {tmp_path} are incomplete or damaged"
    assert refused.value.__cause__ is not None


def test_the_stand_in_comes_with_the_package() -> None:
    """It has the package's version as its revision, and runs on the CPU as every other model."""
    loaded = model.load_stand_in()

    assert (loaded.name, loaded.revision) == (stand_in.NAME, __version__)
    assert loaded.plan == EXACT
    assert loaded.pipeline.device.type == "cpu"


def test_loading_draws_no_progress_bar_once_they_are_hidden(
    weights: Weights, capfd: pytest.CaptureFixture[str]
) -> None:
    """A bar would fill a log that no terminal shows."""
    model.hide_progress_bars()
    model.load(NAME, weights, device="cpu")

    assert "%|" not in capfd.readouterr().err
