"""`alchemint export`: from a training run to a folder that `generate --model` takes."""

from pathlib import Path
from typing import Annotated, Literal

import typer

Weights = Literal["averaged", "last"]
Dtype = Literal["float32", "bfloat16"]


def export(
    run: Annotated[Path, typer.Argument(help="output folder of a training run")],
    out: Annotated[Path, typer.Option("--out", "-o", help="folder to write")],
    step: Annotated[int | None, typer.Option(help="step of the checkpoint; the newest when not given")] = None,
    weights: Annotated[Weights, typer.Option(help="the moving average of the weights, or the last ones")] = "averaged",
    dtype: Annotated[Dtype, typer.Option(help="of the transformer's weights")] = "float32",
    other: Annotated[Path | None, typer.Option(help="of Wan 2.2 A14B: the model folder whose other expert is taken; "
                                               "the base's own, untrained, when not given")] = None,
) -> None:
    """Write a checkpoint as a whole pipeline folder: adapters merged, text encoder and VAE beside it."""
    import torch

    from alchemint.cli.progress import without_loading_bars
    from alchemint.cli.train import new_objective
    from alchemint.training import checkpoint
    from alchemint.training.ranks import ALONE
    from alchemint.training.recipe import TransformerRecipe, load_recipe
    from alchemint.training.transformer import TransformerObjective

    without_loading_bars()
    if not (run / "recipe.yaml").is_file():
        raise ValueError(f"{run}: there is no recipe.yaml; give the output folder of a training run")
    found = checkpoint.find(run / "checkpoints", step)
    recipe = load_recipe(run / "recipe.yaml", ["run.device=cpu", "run.compile=false"])
    if not isinstance(recipe, TransformerRecipe):
        raise ValueError(f"{run} trained a {recipe.kind}; its own export folder holds it")
    # A run's folder may have been moved, and holds its tokenizer.
    objective = new_objective(recipe.model_copy(update={"output": run}), ALONE)
    assert isinstance(objective, TransformerObjective)
    objective.assemble(found, out, weights == "averaged", getattr(torch, dtype), other)
    typer.echo(f"{out}: the model of {found}")
