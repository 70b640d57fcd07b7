"""Where weights are searched, and that they load as in production."""

from pathlib import Path

import flux_model
import pytest
import torch
from diffusers import FluxKontextPipeline

from kontext.contract.size import Size
from kontext.errors import BootError
from kontext.inference import model, weights
from kontext.inference.blocks import DoubleBlock, SingleBlock
from kontext.inference.editor import Editor
from kontext.inference.weights import Weights
from tests.support.edits import edit_of, noise_image

MODEL = "black-forest-labs/FLUX.1-Kontext-dev"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
CACHE = "huggingface-cache/hub/models--black-forest-labs--FLUX.1-Kontext-dev"


def pipeline_at(path: Path) -> Path:
    """Make a directory that looks like a pipeline's, and return it."""
    path.mkdir(parents=True)
    (path / "model_index.json").write_text("{}")
    return path


def test_the_order_of_the_search(tmp_path: Path) -> None:
    """`MODEL_PATH`, Runpod's caches, the network volume, the container image."""
    volume, image, store = tmp_path / "volume", tmp_path / "image", tmp_path / "store"
    own = tmp_path / "own"
    for place in (
        image / "FLUX.1-Kontext-dev",
        volume / "FLUX.1-Kontext-dev",
        store / MODEL / COMMIT,
        volume / CACHE / "snapshots" / "f00d",
    ):
        pipeline_at(place)
        assert weights.find(MODEL, None, volume, image, store).path == place
    pipeline_at(own)
    assert weights.find(MODEL, str(own), volume, image, store).path == own


@pytest.mark.parametrize(
    ("directory", "revision"),
    [
        pytest.param(f"{MODEL}/{COMMIT}", COMMIT, id="flat"),
        pytest.param(f"{MODEL}/{COMMIT}/snapshots/{COMMIT}", COMMIT, id="with snapshots"),
        pytest.param(f"{MODEL}/main", "unknown", id="a branch"),
        pytest.param(f"{MODEL.lower()}/{COMMIT}", COMMIT, id="in lower case"),
    ],
)
def test_runpods_model_store_is_searched(tmp_path: Path, directory: str, revision: str) -> None:
    """In every layout that deployers have seen; the commit is known if the path contains it."""
    store, elsewhere = tmp_path / "store", tmp_path / "elsewhere"
    found = pipeline_at(store / directory)

    assert weights.find(MODEL, None, elsewhere, elsewhere, store) == Weights(found, revision)


def test_a_snapshot_comes_before_the_directory_that_holds_it(tmp_path: Path) -> None:
    """A revision's directory was seen that had only the small files."""
    revision = pipeline_at(tmp_path / MODEL / COMMIT)
    snapshot = pipeline_at(revision / "snapshots" / COMMIT)

    assert weights.find(MODEL, None, tmp_path, tmp_path, tmp_path).path == snapshot


def test_the_cached_main_revision_is_preferred(tmp_path: Path) -> None:
    """Of several snapshots, the one that refs/main names is used, and its commit is known."""
    for commit in ("aaaa", "bbbb"):
        pipeline_at(tmp_path / CACHE / "snapshots" / commit)
    (tmp_path / CACHE / "refs").mkdir()
    (tmp_path / CACHE / "refs" / "main").write_text("bbbb\n")

    assert weights.find(MODEL, None, tmp_path, tmp_path).revision == "bbbb"


def test_the_revision_of_a_downloaded_directory(tmp_path: Path) -> None:
    """`hf download --local-dir` leaves a record of the commit."""
    found = pipeline_at(tmp_path / "FLUX.1-Kontext-dev")
    assert weights.find(MODEL, None, tmp_path, tmp_path).revision == "unknown"
    record = found / ".cache/huggingface/download/model_index.json.metadata"
    record.parent.mkdir(parents=True)
    record.write_text("c0ffee\netag\n1700000000.0\n")

    assert weights.find(MODEL, None, tmp_path, tmp_path).revision == "c0ffee"


def test_missing_weights_are_one_clear_sentence(tmp_path: Path) -> None:
    """It tells the deployer which licence to accept and which setting to use."""
    with pytest.raises(BootError, match=r"accept the licence at https://huggingface\.co/black"):
        weights.find(MODEL, None, tmp_path, tmp_path)
    with pytest.raises(BootError, match=r"^MODEL_PATH .* holds no model_index\.json$"):
        weights.find(MODEL, str(tmp_path), tmp_path, tmp_path)


def test_weights_on_disk_load_and_edit(tmp_path: Path) -> None:
    """A pipeline saved in the Hub's layout loads in bfloat16 and edits."""
    flux_model.pipeline().save_pretrained(tmp_path)
    loaded = model.load(MODEL, Weights(tmp_path, "f00d"), device="cpu")
    loaded.pipeline.set_progress_bar_config(disable=True)
    edit = edit_of(Size(256, 256), noise_image(), num_inference_steps=1)

    assert Editor(loaded, 2.5).edit(edit, lambda _: None).size == (256, 256)
    assert str(loaded.pipeline.transformer.dtype) == "torch.bfloat16"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_weights_are_bit_for_bit_those_of_plain_from_pretrained(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    """Whether or not loading converts them to another precision."""
    flux_model.pipeline().to(dtype).save_pretrained(tmp_path)
    plain = FluxKontextPipeline.from_pretrained(tmp_path, dtype=torch.bfloat16)
    ours = model.load(MODEL, Weights(tmp_path, "f00d"), device="cpu").pipeline

    for name in ("transformer", "text_encoder", "text_encoder_2", "vae"):
        expected = getattr(plain, name).state_dict()
        found = getattr(ours, name).state_dict()
        assert [key for key in found if not is_joint(key)] == list(expected)
        for key, tensor in expected.items():
            assert found[key].dtype == tensor.dtype
            assert torch.equal(found[key], tensor)


def is_joint(name: str) -> bool:
    """Return whether a weight is a joint one, of which others are views."""
    joint = {*DoubleBlock.PARTS, *SingleBlock.PARTS}
    return any(f".{linear}." in name for linear in joint)


def test_a_loaded_pipeline_can_still_be_moved(tmp_path: Path) -> None:
    """A device map would forbid this, and offloading."""
    flux_model.pipeline().save_pretrained(tmp_path)
    loaded = model.load(MODEL, Weights(tmp_path, "f00d"), device="cpu").pipeline

    assert loaded.to("meta").transformer.device.type == "meta"


def test_the_files_are_those_that_the_pipeline_reads(tmp_path: Path) -> None:
    """In the order of its components, without the Hub's second copy of the transformer."""
    flux_model.pipeline().save_pretrained(tmp_path)
    (tmp_path / "flux1-kontext-dev.safetensors").touch()

    assert [str(file.relative_to(tmp_path)) for file in Weights(tmp_path, "f00d").files] == [
        "text_encoder/model.safetensors",
        "text_encoder_2/model.safetensors",
        "transformer/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ]


def test_incomplete_weights_are_one_clear_sentence(tmp_path: Path) -> None:
    """An interrupted download is named instead of shown as a traceback."""
    flux_model.pipeline().save_pretrained(tmp_path)
    (tmp_path / "transformer" / "diffusion_pytorch_model.safetensors").unlink()

    with pytest.raises(BootError, match="are incomplete or damaged"):
        model.load(MODEL, Weights(tmp_path, "f00d"), device="cpu")
