"""Checkpoints: all or nothing, few of them, and everything in them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.training_utils import EMAModel
from torch import nn

from alchemint.training import checkpoint
from alchemint.training.checkpoint import Progress, TrainedState


class FullDisk(torch.optim.SGD):
    """An optimizer whose state cannot be had, so that a save fails when the weights are written already."""

    def state_dict(self) -> dict[str, Any]:
        raise OSError("no space left on device")


def new_state(seed: int) -> TrainedState:
    """A module after a few steps, with moments and averages that are its own."""
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1)
    ema = EMAModel(module.parameters(), decay=0.9)
    for _ in range(3):
        module(torch.randn(5, 3)).square().sum().backward()
        optimizer.step()
        ema.step(module.parameters())
    return TrainedState({"module": module}, {"adamw": optimizer}, ema)


def contents(state: TrainedState) -> list[torch.Tensor]:
    """All tensors of a state, and the averages' step."""
    moments = [moment for held in state.optimizers["adamw"].state.values() for _, moment in sorted(held.items())]
    return [*state.modules["module"].state_dict().values(), *moments, *state.ema.shadow_params,
            torch.tensor(state.ema.optimization_step)]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_everything_comes_back_bit_for_bit(tmp_path: Path) -> None:
    saved, restored = new_state(0), new_state(1)
    restored.ema.optimization_step = 99
    path = checkpoint.save(tmp_path, saved, Progress(3, 1.5), "print", keep=2)
    assert not all(torch.equal(one, other) for one, other in zip(contents(saved), contents(restored), strict=True))
    assert checkpoint.restore(path, restored, "print") == Progress(3, 1.5)
    assert len(contents(saved)) == len(contents(restored)) == 4 + 4 * 3 + 4 + 1
    for one, other in zip(contents(saved), contents(restored), strict=True):
        assert torch.equal(one, other)


def test_the_newest_are_kept(tmp_path: Path) -> None:
    state = new_state(0)
    assert checkpoint.latest(tmp_path) is None
    for step in (5, 90, 1000, 99999):
        checkpoint.save(tmp_path, state, Progress(step, 0.0), "print", keep=2)
        assert checkpoint.latest(tmp_path) == tmp_path / f"step-{step:08d}"
    assert names(tmp_path) == ["step-00001000", "step-00099999"]


def test_a_save_that_fails_leaves_the_one_before(tmp_path: Path) -> None:
    state = new_state(0)
    before = checkpoint.save(tmp_path, state, Progress(1, 0.0), "print", keep=1)
    full = TrainedState(state.modules, {"adamw": FullDisk(state.modules["module"].parameters())}, state.ema)
    with pytest.raises(OSError, match="no space left"):
        checkpoint.save(tmp_path, full, Progress(2, 0.0), "print", keep=1)
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
