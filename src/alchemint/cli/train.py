"""`alchemint train`: run a recipe; the same command again resumes it."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import yaml

if TYPE_CHECKING:
    from alchemint.toyworld import Clip


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

    Several processes: torchrun --nproc-per-node 2 -m alchemint train RECIPE
    """
    from alchemint.cli.allocator import keep_memory

    keep_memory()
    from alchemint.training import loop, ranks
    from alchemint.training.recipe import VaeRecipe, fingerprint, load_recipe

    values = load_recipe(recipe, overrides or [])
    world = values.world.model_dump(exclude={"split"})
    source = ToyworldSource(split=values.world.split, **world)
    heldout = ToyworldSource(split="heldout", **world)
    with ranks.joined():
        logging.basicConfig(level=logging.INFO if ranks.is_first() else logging.WARNING,
                            format="%(asctime)s  %(message)s", datefmt="%H:%M:%S")
        if ranks.is_first():
            values.output.mkdir(parents=True, exist_ok=True)
            (values.output / "recipe.yaml").write_text(yaml.safe_dump(values.model_dump(mode="json"), sort_keys=False))
        objective: loop.Objective
        if isinstance(values, VaeRecipe):
            from alchemint.training.vae import VaeObjective

            objective = VaeObjective(values, source, heldout)
        else:
            from alchemint.training.transformer import TransformerObjective

            objective = TransformerObjective(values, source, heldout)
        loop.train(objective, values.output, values.seed, values.optimizer, values.run, fingerprint(values))
