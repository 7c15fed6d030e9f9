"""`alchemint train`: run a recipe; the same command again resumes it."""

import logging
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import yaml

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from alchemint.perception.watcher import Watcher
    from alchemint.storyboard import Storyboard
    from alchemint.toyworld import Clip
    from alchemint.training.loop import Objective
    from alchemint.training.ranks import Ranks
    from alchemint.training.recipe import Recipe


@dataclass(frozen=True)
class ToyworldSource:
    """Streams toyworld clips of one split to the trainer; picklable, so that worker processes can have it."""

    split: str
    width: int
    height: int
    num_frames: int
    fps: float
    seed: int

    def __call__(self, index: int, num_subjects: int | None) -> "Clip":
        """Render clip number `index`."""
        from alchemint.toyworld import WorldConfig, render_clip

        config = WorldConfig(width=self.width, height=self.height, num_frames=self.num_frames, fps=self.fps)
        return render_clip(self.split, index, config, num_subjects=num_subjects, seed=self.seed)


def train(
    recipe: Annotated[Path, typer.Argument(help="a recipe, e.g. configs/toy.yaml")],
    overrides: Annotated[list[str] | None, typer.Argument(help="recipe values to change: optimizer.lr=1e-4 …")] = None,
) -> None:
    """Train by a recipe. The same command resumes from the newest checkpoint in the recipe's output folder.

    Several processes: torchrun --nproc-per-node 8 -m alchemint train RECIPE
    """
    from alchemint.cli.allocator import keep_memory

    keep_memory()
    from alchemint.cli.progress import without_loading_bars
    from alchemint.training import loop, ranks
    from alchemint.training.recipe import load_recipe

    without_loading_bars()

    values = load_recipe(recipe, overrides or [])
    with ranks.joined(values.run) as joined:
        logging.basicConfig(level=logging.INFO if joined.is_first else logging.WARNING,
                            format="%(asctime)s  %(message)s", datefmt="%H:%M:%S")
        objective = new_objective(values, joined)
        if joined.is_first:
            _keep_recipe(values)
        loop.train(objective, values, joined)


def new_objective(recipe: "Recipe", ranks: "Ranks") -> "Objective":
    """Return the objective of a recipe; clips that it does not name on disk are streamed from the toyworld."""
    from alchemint.training.recipe import VaeRecipe

    world = recipe.world.model_dump(exclude={"split"})
    source = ToyworldSource(split=recipe.world.split, **world)
    heldout = ToyworldSource(split="heldout", **world)
    if isinstance(recipe, VaeRecipe):
        from alchemint.training.vae import VaeObjective

        return VaeObjective(recipe, source, heldout)
    from alchemint.training.transformer import TransformerObjective

    return TransformerObjective(recipe, source, heldout, ranks, _judge_of_toyworld())


def _keep_recipe(recipe: "Recipe") -> None:
    """Write the recipe into its output folder, whole or not at all."""
    from alchemint import media

    recipe.output.mkdir(parents=True, exist_ok=True)
    media.write_text(recipe.output / "recipe.yaml", yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))


def _judge_of_toyworld() -> "Callable[[Storyboard, np.ndarray], float]":
    """Return a function that measures the temporal IoU of a video of a toyworld storyboard."""

    @cache
    def watcher() -> "Watcher":
        from alchemint.cli.perceptions import load_toy

        return load_toy()[0]

    def judge(board: "Storyboard", video: "np.ndarray") -> float:
        from alchemint.s2vtime.scoring import mean_t_iou

        assert board.fps is not None
        return mean_t_iou(board, video, board.fps, lambda video, sought: watcher().look(video, sought).masks)

    return judge
