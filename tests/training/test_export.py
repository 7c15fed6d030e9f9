"""What a run that starts from a base writes at its end: only what is not the base's own."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel

from alchemint.model.transformer import AlchemintTransformer3DModel
from alchemint.pipeline import AlchemintPipeline
from alchemint.training import checkpoint, loop
from alchemint.training.recipe import Lora, TransformerRecipe
from alchemint.training.transformer import TransformerObjective

NewRecipe = Callable[..., TransformerRecipe]
NewObjective = Callable[[TransformerRecipe], TransformerObjective]


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("lora", "written"), [
    (None, {"transformer/config.json", "transformer/diffusion_pytorch_model.safetensors"}),
    (Lora(rank=2), {"lora/pytorch_lora_weights.safetensors", "lora/new_modules.safetensors"}),
])
def test_what_is_the_bases_own_is_not_written(
    wan_recipe: NewRecipe, new_objective: NewObjective, lora: Lora | None, written: set[str]
) -> None:
    recipe = wan_recipe(lora=lora, run={"steps": 1})
    base = files(Path(recipe.base))
    loop.train(new_objective(recipe), recipe)
    assert files(recipe.output / "export") == written
    assert files(Path(recipe.base)) == base


def test_a_whole_transformer_is_that_of_the_averaged_weights(
    wan_recipe: NewRecipe, new_objective: NewObjective
) -> None:
    recipe = wan_recipe(run={"steps": 4, "ema_decay": 0.99})
    objective = new_objective(recipe)
    training = loop._Training(objective, recipe, loop.ALONE)
    training.run()
    exported = AlchemintTransformer3DModel.from_pretrained(recipe.output / "export" / "transformer")
    assert exported.config.num_word_tokens == 4
    loaded = exported.state_dict()
    differs = False
    shadows = training._average.shadows
    for (name, last), average in zip(objective.transformer.named_parameters(), shadows, strict=True):
        assert torch.equal(loaded[name], average), name
        differs |= not torch.equal(loaded[name], last)
    assert differs


def assembled(objective: TransformerObjective, recipe: TransformerRecipe, name: str,
              other: Path | None = None) -> AlchemintPipeline:
    """A pipeline folder of a run's checkpoint, loaded."""
    folder = recipe.output.parent / name
    objective.assemble(checkpoint.find(recipe.output / "checkpoints", None), folder, False, torch.float32, other)
    return AlchemintPipeline.from_pretrained(folder)


def test_two_runs_make_a_pipeline_of_two_experts(
    wan_recipe: NewRecipe, new_objective: NewObjective, tmp_path: Path
) -> None:
    trained, other = {}, None
    for expert in ("high", "low"):
        recipe = wan_recipe("tiny-a14b", expert=expert, run={"steps": 2}, output=tmp_path / f"{expert}-run")
        objective = new_objective(recipe)
        loop.train(objective, recipe)
        trained[expert] = objective.transformer.state_dict()
        pipeline = assembled(objective, recipe, expert, other)
        if other is None:
            plain = WanTransformer3DModel.from_pretrained(Path(recipe.base), subfolder="transformer_2").state_dict()
            kept = pipeline.transformer_2.state_dict()
            assert all(torch.equal(kept[name], tensor) for name, tensor in plain.items())
        other = tmp_path / expert
    assert pipeline.config.boundary_ratio == 0.875
    assert pipeline.scheduler.config.shift == 12.0
    for made, expert in zip(pipeline.transformers, ("high", "low"), strict=True):
        assert all(torch.equal(tensor, trained[expert][name]) for name, tensor in made.state_dict().items())
    differences = [not torch.equal(trained["high"][name], tensor) for name, tensor in trained["low"].items()]
    assert sum(differences) > len(differences) / 2


def test_a_timestep_for_each_token_is_kept(wan_recipe: NewRecipe, new_objective: NewObjective) -> None:
    for geometry, expected in (("tiny-5b", True), ("tiny", False)):
        recipe = wan_recipe(geometry, run={"steps": 1})
        recipe = recipe.model_copy(update={"output": recipe.output.with_name(geometry)})
        objective = new_objective(recipe)
        loop.train(objective, recipe)
        assert assembled(objective, recipe, f"{geometry}-model").config.expand_timesteps is expected
