"""Several processes train one model: whole weights or shards, samples or tokens shared; the numbers are one's alone."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from alchemint.training import checkpoint, loop, ranks
from alchemint.training.ranks import ALONE, Ranks
from alchemint.training.recipe import Dropout, Run, TransformerRecipe
from tests.training.processes import RUN, log_of, objective_of, run_in_all, train, train_each

DIVISIONS: dict[str, dict[str, Any]] = {
    "whole weights": {}, "shards": {"num_shards": "all"}, "shared tokens": {"context_parallel": 2},
    "both, in parts": {"num_shards": "all", "context_parallel": 2, "accumulate": 2},
    "shards, recomputed": {"num_shards": 2, "checkpoint_activations": True},
}


# What processes tell each other


def _average(folder: Path) -> None:
    with ranks.joined(RUN) as joined:
        both, one, none = (nn.Parameter(torch.zeros(2)) for _ in range(3))
        both.grad = torch.tensor([1.0, 2.0]) * (joined.number + 1)
        one.grad = torch.tensor([8.0, 4.0]) if joined.number == 1 else None
        joined.average_gradients([both, one, none])
        assert none.grad is None
        assert both.grad is not None and one.grad is not None
        mean = joined.mean(torch.tensor([1.0, 3.0]) * joined.number)
        (folder / f"{joined.number}.json").write_text(json.dumps(
            [joined.count, both.grad.tolist(), one.grad.tolist(), mean.tolist()]))


def test_gradients_and_values_are_averaged(tmp_path: Path) -> None:
    run_in_all(_average, tmp_path)
    expected = [2, [1.5, 3.0], [4.0, 2.0], [0.5, 1.5]]
    assert [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)] == [expected, expected]


def test_alone_nothing_is_averaged() -> None:
    weight = nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([1.0, 2.0])
    ALONE.average_gradients([weight])
    assert ALONE.share == (0, 1) and ALONE.is_first
    assert weight.grad.tolist() == [1.0, 2.0]
    assert ALONE.mean(weight.grad) is weight.grad


def test_processes_that_share_tokens_have_the_same_samples() -> None:
    run = Run(steps=1, batch_size=8, context_parallel=2, num_shards="all", accumulate=2)
    divided = [ranks.divide(run, number, 4) for number in range(4)]
    assert [one.share for one in divided] == [(0, 2), (0, 2), (1, 2), (1, 2)]
    assert all(one.num_shards == 4 and one.is_sharded and one.work_as_one for one in divided)
    assert not Ranks(0, 2).work_as_one


@pytest.mark.parametrize(("values", "fault"), [
    ({"batch_size": 5}, r"run.batch_size 5 can't be divided into 4 parts \(4 processes, context_parallel 1"),
    ({"batch_size": 8, "accumulate": 3}, "accumulate 3"),
    ({"batch_size": 8, "context_parallel": 3}, "run.context_parallel 3 does not divide the 4 processes"),
    ({"batch_size": 8, "num_shards": 3}, "run.num_shards 3 does not divide the 4 processes"),
])
def test_what_cannot_be_divided_is_refused(values: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        ranks.divide(Run(steps=1, **values), 0, 4)


# Training


def _weights(recipe: TransformerRecipe) -> dict[str, torch.Tensor]:
    """The weights and moments of the newest checkpoint, whichever number of processes wrote it."""
    objective = objective_of(recipe, ALONE)
    training = loop._Training(objective, recipe, ALONE)
    found = checkpoint.latest(recipe.output / "checkpoints")
    assert found is not None
    tensors = training._state.tensors()
    checkpoint.load_tensors(found, tensors)
    return {name: tensor.clone() for name, tensor in tensors.items()}


def test_however_they_are_divided_the_numbers_are_those_of_one_process(
    transformer_recipe: Callable[..., TransformerRecipe], tmp_path: Path
) -> None:
    recipe = transformer_recipe(run={"steps": 20, "batch_size": 4}, dropout=Dropout(image=0.2, text=0.2, both=0.1))
    divided = {name: _divided(recipe, tmp_path / name, run) for name, run in DIVISIONS.items()}
    train(recipe)
    run_in_all(train_each, list(divided.values()))
    alone, weights = log_of(recipe), _weights(recipe)
    assert [row["step"] for row in alone] == list(range(1, 21))
    for name, other in divided.items():
        rows = log_of(other)
        assert [row["step"] for row in rows] == list(range(1, 21)), name
        for one, same in zip(alone, rows, strict=True):
            assert same["loss"] == pytest.approx(one["loss"], abs=1e-4), (name, one["step"])
            assert same["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-3), (name, one["step"])
        for key, tensor in _weights(other).items():
            assert torch.allclose(tensor, weights[key], atol=2e-3), (name, key)
        assert (other.output / "export" / "model_index.json").is_file(), name


def test_another_number_of_processes_goes_on_where_one_stopped(
    transformer_recipe: Callable[..., TransformerRecipe], tmp_path: Path
) -> None:
    """One process, then two with shards, then one again: the unbroken run's losses and weights, rounding apart."""
    recipe = transformer_recipe(run={"steps": 9, "batch_size": 4}, optimizer={"decay_share": 0.0})
    changing = _divided(recipe, tmp_path / "changing", {})
    train(recipe)
    for steps, run in ((3, {}), (6, {"num_shards": "all"}), (9, {})):
        part = changing.model_copy(update={"run": changing.run.model_copy(update={"steps": steps, **run})})
        train(part) if not run else run_in_all(train, part)
    for one, same in zip(log_of(recipe), log_of(changing), strict=True):
        assert same["loss"] == pytest.approx(one["loss"], abs=1e-4), one["step"]
    weights = _weights(changing)
    for name, tensor in _weights(recipe).items():
        assert torch.allclose(weights[name], tensor, atol=1e-3), name


def _note_dtypes(recipe: TransformerRecipe, folder: Path) -> None:
    """Train a step in bfloat16 and shards; write what the rotary tables and timesteps were."""
    seen: dict[str, str] = {}
    with ranks.joined(recipe.run) as joined:
        objective = objective_of(recipe, joined)
        rope, times = objective.transformer.rope, objective.transformer.condition_embedder.timesteps_proj
        rope.register_forward_hook(lambda module, given, made: seen.update(rotary=str(made[0].dtype)))
        times.register_forward_hook(lambda module, given, made: seen.update(given=str(given[0].dtype),
                                                                           embedded=str(made.dtype)))
        query = objective.transformer.blocks[0].attn1.to_q
        query.register_forward_hook(lambda module, given, made: seen.update(query=str(made.dtype),
                                                                            weight=str(module.weight.dtype)))
        loop.train(objective, recipe, joined)
        if joined.is_first:
            (folder / "seen.json").write_text(json.dumps(seen))


def test_shards_in_bfloat16_leave_rotary_tables_and_timesteps_in_float32(
    transformer_recipe: Callable[..., TransformerRecipe], tmp_path: Path
) -> None:
    recipe = transformer_recipe(run={"steps": 2, "num_shards": "all", "precision": "bfloat16"})
    run_in_all(_note_dtypes, recipe, tmp_path)
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert seen == {"rotary": "torch.float32", "given": "torch.float32", "embedded": "torch.float32",
                    "query": "torch.bfloat16", "weight": "torch.bfloat16"}
    assert all(tensor.dtype == torch.float32 for tensor in _weights(recipe).values())


def _divided(recipe: TransformerRecipe, output: Path, run: dict[str, Any]) -> TransformerRecipe:
    """The recipe with another output folder, which has the tokenizer already, and another run."""
    shutil.copytree(recipe.output / "tokenizer", output / "tokenizer")
    return recipe.model_copy(update={"output": output, "run": recipe.run.model_copy(update=run)})
