"""Checkpoints: all or nothing, few of them, and everything in them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

from alchemint.training import checkpoint
from alchemint.training.average import Average
from alchemint.training.checkpoint import Progress, TrainedState
from alchemint.training.optimizers import Optimizers
from alchemint.training.recipe import Optimizer


def new_state(seed: int) -> TrainedState:
    """A module after a few steps, with moments and averages that are its own."""
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    named = {f"module.{name}": parameter for name, parameter in module.named_parameters()}
    optimizers = Optimizers([{"params": list(named.values()), "lr": 0.1}], [module[0].weight],
                            Optimizer(lr=0.1, muon_lr=0.02))
    average = Average(list(named.values()), 0.9)
    for _ in range(3):
        module(torch.randn(5, 3)).square().sum().backward()
        optimizers.step(1.0)
        average.step()
    return TrainedState(named, optimizers, average)


def _no_space(*arguments: Any, **options: Any) -> None:
    """Stands for the writer's last step, when the tensors are written already."""
    raise OSError("no space left on device")


def contents(state: TrainedState) -> list[torch.Tensor]:
    """All tensors of a state, and the averages' step."""
    moments = [moment for optimizer in state.optimizers.members.values() for held in optimizer.state.values()
               for _, moment in sorted(held.items())]
    return [*(parameter.detach() for parameter in state.parameters.values()), *moments, *state.average.shadows,
            torch.tensor(state.average.step_number)]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_everything_comes_back_bit_for_bit(tmp_path: Path) -> None:
    saved, restored = new_state(0), new_state(1)
    restored.average.step_number = 99
    path = checkpoint.save(tmp_path, saved, Progress(3, 1.5), "print", keep=2)
    assert not all(torch.equal(one, other) for one, other in zip(contents(saved), contents(restored), strict=True))
    assert checkpoint.restore(path, restored, "print") == Progress(3, 1.5)
    assert len(contents(saved)) == len(contents(restored)) == 4 + 3 * 3 + 1 + 4 + 1
    for one, other in zip(contents(saved), contents(restored), strict=True):
        assert torch.equal(one, other)


def test_the_newest_are_kept(tmp_path: Path) -> None:
    state = new_state(0)
    assert checkpoint.latest(tmp_path) is None
    for step in (5, 90, 1000, 99999):
        checkpoint.save(tmp_path, state, Progress(step, 0.0), "print", keep=2)
        assert checkpoint.latest(tmp_path) == tmp_path / f"step-{step:08d}"
    assert names(tmp_path) == ["step-00001000", "step-00099999"]


def test_a_save_that_fails_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = new_state(0)
    before = checkpoint.save(tmp_path, state, Progress(1, 0.0), "print", keep=1)
    monkeypatch.setattr(HuggingFaceStorageWriter, "finish", _no_space)
    with pytest.raises(OSError, match="no space left"):
        checkpoint.save(tmp_path, state, Progress(2, 0.0), "print", keep=1)
    monkeypatch.undo()
    assert checkpoint.latest(tmp_path) == before
    assert checkpoint.restore(before, new_state(1), "print").step == 1

    again = checkpoint.save(tmp_path, state, Progress(2, 0.0), "print", keep=1)
    assert names(tmp_path) == [again.name]
    assert checkpoint.restore(again, new_state(1), "print").step == 2


def test_what_was_cut_off_is_not_taken_for_a_checkpoint(tmp_path: Path) -> None:
    whole = checkpoint.save(tmp_path, new_state(0), Progress(1, 0.0), "print", keep=2)
    (tmp_path / "step-00000002").mkdir()
    partial = tmp_path / "step-00000003.partial"
    partial.mkdir()
    (partial / "state.json").write_text('{"step": 3, ')
    assert checkpoint.latest(tmp_path) == whole


def test_a_checkpoint_that_is_there_is_not_touched(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, new_state(0), Progress(1, 0.0), "print", keep=1)
    before = {file.name: file.stat().st_mtime_ns for file in path.iterdir()}
    checkpoint.save(tmp_path, new_state(0), Progress(1, 0.0), "print", keep=1)
    assert {file.name: file.stat().st_mtime_ns for file in path.iterdir()} == before


def test_another_recipes_checkpoint_is_refused(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, new_state(0), Progress(1, 0.0), "one", keep=1)
    state = new_state(1)
    before = [tensor.clone() for tensor in contents(state)]
    with pytest.raises(ValueError, match="made by another recipe"):
        checkpoint.restore(path, state, "other")
    assert all(torch.equal(one, other) for one, other in zip(contents(state), before, strict=True))
    assert json.loads((path / "state.json").read_text())["fingerprint"] == "one"
