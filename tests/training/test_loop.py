"""The training loop: that a resumed run is the unbroken one, to the last bit; stops, averages and the log."""

import json
import math
import multiprocessing
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from alchemint.cli.train import ToyworldSource
from alchemint.training import checkpoint, loop
from alchemint.training.average import Average
from alchemint.training.draws import Draws
from alchemint.training.recipe import Optimizer, TransformerRecipe, VaeRecipe
from alchemint.training.vae import VaeObjective

Recipe = VaeRecipe | TransformerRecipe
NewObjective = Callable[[Recipe], loop.Objective]


@dataclass
class Stopped:
    """An objective that gets this process and its workers a SIGTERM in the `call`-th computation of its loss."""

    objective: Any
    call: int

    def __getattr__(self, name: str) -> Any:
        return getattr(self.objective, name)

    def loss(self, batch: Any, draws: Draws) -> Any:
        self.call -= 1
        if self.call == 0:
            # Ctrl-C and torchrun tell the whole process group. (From its parent a worker would take it for a farewell.)
            for worker in multiprocessing.active_children():
                subprocess.run(["kill", "-TERM", str(worker.pid)], check=True)
                time.sleep(0.5)
            os.kill(os.getpid(), signal.SIGTERM)
        return self.objective.loss(batch, draws)


@dataclass
class Broken:
    """An objective whose `call`-th loss is `factor` times what it is, and that keeps the batch of it."""

    objective: Any
    call: int
    factor: float
    batch: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.objective, name)

    def loss(self, batch: Any, draws: Draws) -> Any:
        loss, details = self.objective.loss(batch, draws)
        self.call -= 1
        if self.call == 0:
            self.batch = batch
            loss = loss * self.factor
        return loss, details


CLOCK = ("seconds", "samples_per_s", "step_s", "data_share", "memory_gb", "mfu")


def train(objective: Any, recipe: Recipe) -> checkpoint.Progress:
    return loop.train(objective, recipe)


def trained_tensors(output: Path) -> dict[str, torch.Tensor]:
    """All tensors of the newest checkpoint and of what was exported, by file and name."""
    folder = checkpoint.latest(output / "checkpoints")
    assert folder is not None
    files = [*folder.glob("*.safetensors"), *(output / "export").rglob("*.safetensors")]
    return {f"{path.parent.name if path.parent != folder else ''}/{path.name}/{name}": tensor
            for path in files for name, tensor in load_file(path).items()}


def log_rows(output: Path) -> list[dict[str, float]]:
    """The rows of the log without what the clock decides."""
    rows = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in CLOCK} for row in rows]


@pytest.fixture(params=["vae", "transformer"])
def new_recipe(request: pytest.FixtureRequest) -> Callable[..., Recipe]:
    return request.getfixturevalue(f"{request.param}_recipe")


@pytest.mark.parametrize("muon_lr", [None, 0.02])
def test_a_stopped_and_resumed_run_is_the_unbroken_one(
    new_recipe: Callable[..., Recipe], new_objective: NewObjective, tmp_path: Path, muon_lr: float | None
) -> None:
    recipe, whole = (new_recipe(optimizer={"muon_lr": muon_lr}, output=tmp_path / name) for name in ("parts", "whole"))
    handler = signal.getsignal(signal.SIGTERM)
    assert train(new_objective(whole), whole).step == 6
    assert signal.getsignal(signal.SIGTERM) is handler

    assert train(Stopped(new_objective(recipe), call=2), recipe).step == 2
    assert signal.getsignal(signal.SIGTERM) is handler
    assert train(Stopped(new_objective(recipe), call=3), recipe).step == 5
    assert train(new_objective(recipe), recipe).step == 6

    parts, unbroken = trained_tensors(recipe.output), trained_tensors(whole.output)
    assert parts.keys() == unbroken.keys()
    assert any("adamw" in name for name in parts)
    assert any("muon" in name for name in parts) == (muon_lr is not None)
    for name, tensor in unbroken.items():
        assert torch.equal(parts[name], tensor), name
    assert log_rows(recipe.output) == log_rows(whole.output)
    assert [row["step"] for row in log_rows(whole.output)] == [1, 2, 3, 4, 5, 6]


def test_every_step_of_every_seed_has_noise_of_its_own(
    vae_recipe: Callable[..., Recipe], new_objective: NewObjective, tmp_path: Path
) -> None:
    noise = []
    for seed in (0, 1):
        recipe = vae_recipe(run={"steps": 3}, seed=seed, output=tmp_path / str(seed))
        objective: Any = new_objective(recipe)
        loss = objective.loss

        def noted(batch: Any, draws: Draws, loss: Any = loss) -> Any:
            noise.append(torch.randn(4, generator=draws.of_part()).tolist())
            return loss(batch, draws)

        objective.loss = noted
        train(objective, recipe)
    assert len({tuple(draw) for draw in noise}) == 6


def test_a_finished_run_changes_no_more(vae_recipe: Callable[..., Recipe], new_objective: NewObjective) -> None:
    recipe = vae_recipe(run={"steps": 2})
    train(new_objective(recipe), recipe)
    before = trained_tensors(recipe.output)
    assert train(new_objective(recipe), recipe).step == 2
    assert all(torch.equal(tensor, before[name]) for name, tensor in trained_tensors(recipe.output).items())
    assert len(log_rows(recipe.output)) == 2


def test_time_counts_over_all_sessions(vae_recipe: Callable[..., Recipe], new_objective: NewObjective) -> None:
    recipe = vae_recipe(run={"max_minutes": 1e-9})
    progress = [train(new_objective(recipe), recipe) for _ in range(2)]
    assert [one.step for one in progress] == [1, 2]
    assert 0 < progress[0].seconds < progress[1].seconds


def test_a_worker_process_makes_the_same_batches(vae_recipe: Callable[..., VaeRecipe]) -> None:
    """With a source that workers can be handed."""
    trained = []
    for num_workers in (0, 1):
        recipe = vae_recipe(run={"steps": 3, "num_workers": num_workers}, seed=4)
        recipe = recipe.model_copy(update={"output": recipe.output / str(num_workers)})
        source = ToyworldSource(split="train", **recipe.world.model_dump(exclude={"split"}))
        train(VaeObjective(recipe, source, source), recipe)
        trained.append(trained_tensors(recipe.output))
    assert all(torch.equal(tensor, trained[1][name]) for name, tensor in trained[0].items())


def test_a_stop_that_reaches_the_workers_too_is_a_clean_stop(vae_recipe: Callable[..., VaeRecipe]) -> None:
    recipe = vae_recipe(run={"num_workers": 1})
    source = ToyworldSource(split="train", **recipe.world.model_dump(exclude={"split"}))
    assert train(Stopped(VaeObjective(recipe, source, source), call=2), recipe).step == 2
    assert checkpoint.latest(recipe.output / "checkpoints") is not None
    assert train(VaeObjective(recipe, source, source), recipe).step == 6


def test_another_seed_trains_other_weights(vae_recipe: Callable[..., Recipe], new_objective: NewObjective) -> None:
    recipe = vae_recipe(run={"steps": 1})
    objective = new_objective(recipe)
    start = [parameter.clone() for parameter in objective.modules["vae"].parameters()]
    train(objective, recipe)
    other = vae_recipe(run={"steps": 1}, seed=1)
    assert not all(torch.equal(one, another) for one, another in zip(
        start, new_objective(other).modules["vae"].parameters(), strict=True))
    with pytest.raises(ValueError, match="another recipe"):
        train(new_objective(other), other)


def test_a_loss_that_is_not_finite_ends_the_run(vae_recipe: Callable[..., Recipe], new_objective: NewObjective) -> None:
    recipe = vae_recipe(optimizer={"lr": 1e30, "warmup_steps": 0})
    with pytest.raises(FloatingPointError, match=r"step 1: loss .* lower the learning rate"):
        train(new_objective(recipe), recipe)
    assert checkpoint.latest(recipe.output / "checkpoints") is None


@pytest.mark.parametrize(("call", "factor", "reason"), [
    (3, math.nan, "step 2: loss nan; "), (1, math.inf, "step 0: loss inf; "),
    (23, 1e3, r"step 22: loss [\d.]+(e\+\d+)?, [\d.]+ in the mean of the steps before \(run.max_loss_ratio is 8\); "),
])
def test_a_batch_that_breaks_the_run_is_kept(
    transformer_recipe: Callable[..., Recipe], new_objective: NewObjective, call: int, factor: float, reason: str
) -> None:
    recipe = transformer_recipe(run={"steps": 40, "max_loss_ratio": 8})
    broken = Broken(new_objective(recipe), call, factor)
    path = recipe.output / f"bad-batch-step-{call - 1:08d}-process-0"
    with pytest.raises(FloatingPointError, match=f"^{reason}the batch is in {path}.safetensors; lower the learning"):
        train(broken, recipe)
    tensors, texts = load_file(f"{path}.safetensors"), json.loads(Path(f"{path}.json").read_text())
    batch = broken.batch
    assert tensors.keys() == {"latents", "reference_latents", "spans", "subject_mask"}
    assert all(torch.equal(tensor, getattr(batch, name)) for name, tensor in tensors.items())
    assert texts["prompts"] == batch.prompts and len(batch.prompts[0]) > 5
    assert texts["words"] == batch.words
    assert texts.keys() == {"prompts", "words", "events", "places"}
    assert checkpoint.latest(recipe.output / "checkpoints") is None


def test_a_gradient_that_is_not_finite_ends_the_run(
    vae_recipe: Callable[..., Recipe], new_objective: NewObjective
) -> None:
    recipe = vae_recipe()
    objective = new_objective(recipe)
    weight = next(objective.modules["vae"].parameters())
    weight.register_hook(lambda gradient: gradient * math.nan)
    before = weight.detach().clone()
    with pytest.raises(FloatingPointError, match=r"^step 0: gradient norm nan; the batch is in .*-step-00000000-"):
        train(objective, recipe)
    assert torch.equal(weight, before)
    assert load_file(recipe.output / "bad-batch-step-00000000-process-0.safetensors")["pixels"].dtype == torch.uint8


def test_losses_are_compared_once_there_are_enough_of_them(
    transformer_recipe: Callable[..., Recipe], new_objective: NewObjective
) -> None:
    recipe = transformer_recipe(run={"steps": 10})
    assert train(Broken(new_objective(recipe), 8, 1e3), recipe).step == 10


def test_sheets_are_drawn_on_the_way(vae_recipe: Callable[..., Recipe], new_objective: NewObjective) -> None:
    recipe = vae_recipe(run={"steps": 4, "sheet_every": 2})
    train(new_objective(recipe), recipe)
    assert sorted(path.name for path in (recipe.output / "sheets").iterdir()) == [
        "step-00000002.png", "step-00000004.png"]


def test_log_rows_are_means(vae_recipe: Callable[..., Recipe], new_objective: NewObjective, tmp_path: Path) -> None:
    every, third = (vae_recipe(run={"log_every": number}, output=tmp_path / str(number)) for number in (1, 3))
    for recipe in (every, third):
        train(new_objective(recipe), recipe)
    losses = [row["loss"] for row in log_rows(every.output)]
    rows = log_rows(third.output)
    assert [row["step"] for row in rows] == [3, 6]
    assert [row["loss"] for row in rows] == pytest.approx([sum(losses[:3]) / 3, sum(losses[3:]) / 3], rel=1e-4)


def test_exported_weights_are_the_moving_average(
    vae_recipe: Callable[..., VaeRecipe], new_objective: NewObjective
) -> None:
    """decay min(ema_decay, 1 - 1 / (1 + t / 10)) at step t, one late as diffusers has it, from the weights as drawn."""
    recipe = vae_recipe(run={"steps": 4, "ema_decay": 0.15})
    objective = new_objective(recipe)
    vae = objective.modules["vae"]
    average = [parameter.detach().clone() for parameter in vae.parameters()]
    for stop in range(1, 5):
        weights = recipe.model_copy(update={"run": recipe.run.model_copy(update={"max_minutes": 1e-9})})
        assert train(objective, weights).step == stop
        decay = min(0.15, 1 - 1 / (1 + (stop - 1) / 10)) if stop > 1 else 0.0
        average = [decay * old + (1 - decay) * new.detach() for old, new in zip(
            average, vae.parameters(), strict=True)]
    exported = load_file(recipe.output / "export" / "vae" / "diffusion_pytorch_model.safetensors")
    assert not torch.allclose(average[0], next(vae.parameters()), atol=1e-6)
    for (name, _), expected in zip(vae.named_parameters(), average, strict=True):
        assert torch.allclose(exported[name], expected, atol=1e-6), name


def test_averaged_weights_are_in_place_for_the_context_alone() -> None:
    module = nn.Linear(3, 2).train()
    parameters = list(module.parameters())
    average = Average(parameters, decay=0.5)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(1)
    live = [parameter.clone() for parameter in parameters]
    with pytest.raises(RuntimeError, match="inside"), average.in_place({"module": module}):
        assert not module.training
        for parameter, old in zip(parameters, live, strict=True):
            assert torch.allclose(parameter, old - 1)
        raise RuntimeError("inside")
    assert module.training
    assert all(torch.equal(parameter, old) for parameter, old in zip(parameters, live, strict=True))


def test_the_learning_rate_warms_up_stays_and_decays() -> None:
    options = Optimizer(lr=1, warmup_steps=4, decay_share=0.2)
    factors = [loop.learning_rate_factor(options, step, 20) for step in range(20)]
    assert factors == pytest.approx([0.25, 0.5, 0.75] + [1] * 14 + [0.75, 0.5, 0.25])
    assert loop.learning_rate_factor(Optimizer(lr=1, warmup_steps=0), 19, 20) == 1


def test_a_rehearsal_takes_the_same_steps_and_leaves_no_weights(
    vae_recipe: Callable[..., Recipe], new_objective: NewObjective, tmp_path: Path
) -> None:
    played, rehearsed = (vae_recipe(run={"steps": 3}, output=tmp_path / name) for name in ("played", "rehearsed"))
    train(new_objective(played), played)
    loop.rehearse(new_objective(rehearsed), rehearsed)
    assert log_rows(rehearsed.output) == log_rows(played.output)
    assert not (rehearsed.output / "checkpoints").exists()
    assert not (rehearsed.output / "export").exists()
