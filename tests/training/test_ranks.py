"""Several processes train one model: gradients of all, one set of files, and the same weights everywhere."""

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.multiprocessing import spawn  # type: ignore[attr-defined]

from alchemint.cli.train import ToyworldSource
from alchemint.training import loop, ranks
from alchemint.training.recipe import TransformerRecipe, fingerprint
from alchemint.training.transformer import TransformerObjective

NUM_PROCESSES = 2


def run_in_all(function: Callable[..., None], *args: Any) -> None:
    """Run `function(*args)` in two processes that torchrun might have started."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    spawn(_as_rank, (port, function, args), nprocs=NUM_PROCESSES)


def _as_rank(rank: int, port: int, function: Callable[..., None], args: tuple[Any, ...]) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(NUM_PROCESSES), MASTER_ADDR="127.0.0.1",
                      MASTER_PORT=str(port))
    torch.set_num_threads(1)
    with ranks.joined():
        function(*args)


def _average(folder: Path) -> None:
    rank, count = ranks.share()
    both, one, none = (nn.Parameter(torch.zeros(2)) for _ in range(3))
    both.grad = torch.tensor([1.0, 2.0]) * (rank + 1)
    one.grad = torch.tensor([8.0, 4.0]) if rank == 1 else None
    answers = [ranks.average_gradients([both, one, none], wish) for wish in (False, rank == 1)]
    assert none.grad is None
    assert both.grad is not None and one.grad is not None
    (folder / f"{rank}.json").write_text(json.dumps([count, both.grad.tolist(), one.grad.tolist(), answers]))


def test_gradients_are_averaged_and_wishes_are_everyones(tmp_path: Path) -> None:
    run_in_all(_average, tmp_path)
    expected = [2, [1.5, 3.0], [4.0, 2.0], [False, True]]
    assert [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)] == [expected, expected]


def test_alone_nothing_is_averaged() -> None:
    weight = nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([1.0, 2.0])
    assert ranks.share() == (0, 1) and ranks.is_first()
    assert [ranks.average_gradients([weight], wish) for wish in (False, True)] == [False, True]
    assert weight.grad.tolist() == [1.0, 2.0]


def _train(recipe: TransformerRecipe, folder: Path) -> None:
    source = ToyworldSource(split="train", **recipe.world.model_dump(exclude={"split"}))
    objective = TransformerObjective(recipe, source, source)
    prompts = [objective.batches(6)[step].prompts for step in range(6)]
    progress = loop.train(objective, recipe.output, recipe.seed, recipe.optimizer, recipe.run, fingerprint(recipe))
    weights = sum(parameter.double().sum().item() for parameter in objective.transformer.parameters())
    (folder / f"{dist.get_rank() if dist.is_initialized() else 'alone'}.json").write_text(
        json.dumps([progress.step, weights, prompts]))


def test_two_processes_share_batches_and_hold_the_same_weights(
    transformer_recipe: Callable[..., TransformerRecipe], tmp_path: Path
) -> None:
    recipe = transformer_recipe(run={"batch_size": 4})
    run_in_all(_train, recipe, tmp_path)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first[0] == second[0] == 6
    assert first[1] == second[1]
    rows = (recipe.output / "log.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert (recipe.output / "export" / "model_index.json").is_file()

    alone = recipe.model_copy(update={"output": tmp_path / "alone"})
    (tmp_path / "alone").mkdir()
    (recipe.output / "tokenizer").rename(alone.output / "tokenizer")
    _train(alone, tmp_path)
    for step, prompts in enumerate(json.loads((tmp_path / "alone.json").read_text())[2]):
        assert sorted(first[2][step] + second[2][step]) == sorted(prompts)


def test_a_batch_that_cannot_be_divided_is_refused(tmp_path: Path) -> None:
    run_in_all(_divide, tmp_path)
    assert "run.batch_size 5 can't be divided among 2 processes" in (tmp_path / "fault").read_text()


def _divide(folder: Path) -> None:
    assert ranks.share_of(4) == 2
    with pytest.raises(ValueError, match="divided") as fault:
        ranks.share_of(5)
    if ranks.is_first():
        (folder / "fault").write_text(str(fault.value))
