"""What a run that starts from a base writes at its end: only what is not the base's own."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from alchemint.model.transformer import AlchemintTransformer3DModel
from alchemint.training import loop
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
