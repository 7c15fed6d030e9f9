"""Training in two processes that torchrun might have started, and in this one."""

import json
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.multiprocessing import start_processes  # type: ignore[attr-defined]

from alchemint.cli.train import ToyworldSource
from alchemint.training import loop, ranks
from alchemint.training.ranks import Ranks
from alchemint.training.recipe import Run, TransformerRecipe
from alchemint.training.transformer import TransformerObjective
from tests.forks import FORKS

NUM_PROCESSES = 2
RUN = Run(steps=1, batch_size=NUM_PROCESSES, device="cpu")


def run_in_all(function: Callable[..., None], *args: Any) -> None:
    """Run `function(*args)` in two processes that torchrun might have started."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start_processes(_as_rank, (port, function, args), NUM_PROCESSES, start_method=FORKS.get_start_method())


def _as_rank(rank: int, port: int, function: Callable[..., None], args: tuple[Any, ...]) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(NUM_PROCESSES), MASTER_ADDR="127.0.0.1",
                      MASTER_PORT=str(port))
    torch.set_num_threads(1)
    with ranks.joined(RUN):
        function(*args)


def objective_of(recipe: TransformerRecipe, joined: Ranks) -> TransformerObjective:
    """The objective of a recipe, with clips that any process can stream."""
    source = ToyworldSource(split="train", **recipe.world.model_dump(exclude={"split"}))
    return TransformerObjective(recipe, source, source, joined)


def train(recipe: TransformerRecipe) -> None:
    """Train to the end of the recipe, with the processes that are joined."""
    with ranks.joined(recipe.run) as joined:
        assert loop.train(objective_of(recipe, joined), recipe, joined).step == recipe.run.steps


def train_each(recipes: Sequence[TransformerRecipe]) -> None:
    """Train one recipe after the other."""
    for recipe in recipes:
        train(recipe)


def log_of(recipe: TransformerRecipe) -> list[dict[str, float]]:
    """The rows of a run's log."""
    return [json.loads(row) for row in (recipe.output / "log.jsonl").read_text().splitlines()]
