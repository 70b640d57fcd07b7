"""The stand-in's training gives the same weights from the same seed, even if interrupted."""

from pathlib import Path

import pytest
import torch
from stand_in import editing, stage, train
from torch import nn

STEPS = 4
Weights = dict[str, torch.Tensor]


class Interrupted(Exception):
    """Raised by a test within a training step."""


def learn(folder: Path, seed: int = 0, interrupt_at: int | None = None) -> Weights:
    """Train a few steps of editing from the seed, and return the transformer's weights."""
    folder.mkdir(exist_ok=True)
    pipeline = train.start(seed)
    transformer = pipeline.transformer
    steps = iter(range(STEPS))

    def interrupt(_network: nn.Module, _arguments: object) -> None:
        if next(steps) == interrupt_at:
            raise Interrupted

    transformer.register_forward_pre_hook(interrupt)
    prompts = train.prompts_of(pipeline)
    editing.train_edits(transformer, pipeline.vae, prompts, STEPS, seed, folder)
    weights: Weights = transformer.state_dict()
    return weights


def same(one: Weights, other: Weights) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    """The weights of a run without interruption."""
    return learn(tmp_path_factory.mktemp("uninterrupted"))


def test_a_run_goes_on_where_it_was_interrupted(
    uninterrupted: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends with the same weights, bit by bit."""
    monkeypatch.setattr(stage, "CHECKPOINT_SECONDS", 0)
    with pytest.raises(Interrupted):
        learn(tmp_path, interrupt_at=2)

    assert same(learn(tmp_path), uninterrupted)


def test_another_seed_learns_other_weights(uninterrupted: Weights, tmp_path: Path) -> None:
    """The seed sets the initial weights and all random data."""
    assert not same(learn(tmp_path, seed=1), uninterrupted)


def test_training_does_not_change_the_attention_routes(uninterrupted: Weights) -> None:
    """Which tokens a token attends to is set before training."""
    start = train.start(0).transformer.state_dict()

    changed = {name for name in start if not torch.equal(start[name], uninterrupted[name])}
    assert changed
    assert not [name for name in changed if ".attn." in name]
