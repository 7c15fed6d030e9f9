"""Where runs begin: a plain Wan, read whole or into shards, one of its experts, and folders that won't do."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file

from alchemint.training import loop, start
from alchemint.training.draws import Draws
from alchemint.training.ranks import ALONE
from alchemint.training.recipe import Lora, TransformerRecipe
from alchemint.training.transformer import TransformerObjective
from tests.training.processes import log_of, objective_of, run_in_all, train, train_each

NewRecipe = Callable[..., TransformerRecipe]
NewObjective = Callable[[TransformerRecipe], TransformerObjective]

BOUNDARY = 0.875
STARTS: dict[str, dict[str, Any]] = {
    "full": {}, "adapters": {"lora": Lora(rank=4, alpha=8)}, "bfloat16 files": {"dtype": "bfloat16"}}


def weights_file(recipe: TransformerRecipe, folder: str = "transformer") -> dict[str, torch.Tensor]:
    return load_file(f"{recipe.base}/{folder}/diffusion_pytorch_model.safetensors")


# A plain Wan


@pytest.mark.slow
def test_shards_that_are_read_by_parts_train_as_one_process_does(wan_recipe: NewRecipe, tmp_path: Path) -> None:
    alone = {name: wan_recipe(output=tmp_path / name / "alone", run={"steps": 8}, **values)
             for name, values in STARTS.items()}
    shards = {name: wan_recipe(output=tmp_path / name / "shards", run={"steps": 8, "num_shards": "all"}, **values)
              for name, values in STARTS.items()}
    sheets = wan_recipe(output=tmp_path / "sheets", lora=Lora(rank=4), run={
        "steps": 1, "num_shards": "all", "precision": "bfloat16", "sheet_every": 1})
    run_in_all(train_each, [*shards.values(), sheets])
    assert (sheets.output / "sheets" / "step-00000001.png").is_file()
    for name, recipe in alone.items():
        train(recipe)
        for one, same in zip(log_of(recipe), log_of(shards[name]), strict=True):
            assert same["loss"] == pytest.approx(one["loss"], abs=1e-4), (name, one["step"])
            assert same["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-3), (name, one["step"])
        exported = {path.relative_to(recipe.output): load_file(path)
                    for path in (recipe.output / "export").rglob("*.safetensors")}
        assert len(exported) == (2 if recipe.lora else 1)
        for path, tensors in exported.items():
            other = load_file(shards[name].output / path)
            assert tensors.keys() == other.keys()
            for key, tensor in tensors.items():
                assert tensor.dtype == other[key].dtype == torch.float32
                assert torch.allclose(tensor, other[key], atol=2e-3), (name, key)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_base_begins_with_its_own_weights_in_float32(
    wan_recipe: NewRecipe, new_objective: NewObjective, dtype: str
) -> None:
    recipe = wan_recipe(dtype=dtype)
    weights = new_objective(recipe).transformer.state_dict()
    base = weights_file(recipe)
    assert {str(tensor.dtype) for tensor in base.values()} == {f"torch.{dtype}"}
    for name, tensor in base.items():
        assert weights[name].dtype == torch.float32
        assert torch.equal(weights[name], tensor.float()), name
    assert all(tensor.dtype == torch.float32 for tensor in weights.values())


def test_new_modules_begin_by_the_seed_alone(wan_recipe: NewRecipe) -> None:
    """Whatever has been drawn before, which is not the same where weights lie in shards."""
    drawn = []
    for number, seed in enumerate((0, 0, 1)):
        objective = objective_of(wan_recipe(seed=seed), ALONE)
        torch.manual_seed(number)
        objective.place(torch.device("cpu"), ALONE, bfloat16=False)
        transformer = objective.transformer
        drawn.append(torch.cat([parameter.detach().flatten() for name in transformer.new_module_names()
                                for parameter in transformer.get_submodule(name).parameters()]))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_a_wan_of_many_channels_trains(wan_recipe: NewRecipe, new_objective: NewObjective) -> None:
    """Wan 2.2 5B: 48 channels, pixels to a sixteenth of the size."""
    recipe = wan_recipe("tiny-5b", run={"steps": 2})
    objective = new_objective(recipe)
    assert loop.train(objective, recipe).step == 2
    assert objective.transformer.config.in_channels == 48
    assert not torch.equal(objective.transformer.proj_out.weight, weights_file(recipe)["proj_out.weight"])


# Experts


@pytest.mark.parametrize(("expert", "low", "high", "folder"), [
    ("high", BOUNDARY, 1.0, "transformer"), ("low", 0.0, BOUNDARY, "transformer_2")])
def test_an_expert_is_trained_on_its_own_side(
    wan_recipe: NewRecipe, new_objective: NewObjective, expert: str, low: float, high: float, folder: str
) -> None:
    for shift in (0.3, 1.0, 3.0, 12.0):
        recipe = wan_recipe("tiny-a14b", expert=expert, flow_shift=shift)
        objective = new_objective(recipe)
        times = objective._draw_times(Draws(0, 0).of_samples(4000), torch.device("cpu"))
        assert low - 1e-6 <= times.min() < low + 0.02
        assert high - 0.02 < times.max() <= high + 1e-6
    read = objective.transformer.state_dict()
    assert all(torch.equal(read[name], tensor) for name, tensor in weights_file(recipe, folder).items())


@pytest.mark.parametrize("shift", [1.0, 5.0])
def test_the_times_of_an_expert_are_those_of_the_whole_on_its_side(
    wan_recipe: NewRecipe, new_objective: NewObjective, shift: float
) -> None:
    generators = Draws(0, 0).of_samples(20_000)
    whole = new_objective(wan_recipe(flow_shift=shift))._draw_times(generators, torch.device("cpu"))
    for expert, side in (("high", whole[whole >= BOUNDARY]), ("low", whole[whole < BOUNDARY])):
        objective = new_objective(wan_recipe("tiny-a14b", expert=expert, flow_shift=shift))
        times = objective._draw_times(Draws(1, 0).of_samples(20_000), torch.device("cpu"))
        for share in (0.1, 0.5, 0.9):
            assert times.quantile(share).item() == pytest.approx(side.quantile(share).item(), abs=0.02)


@pytest.mark.parametrize(("geometry", "expert", "fault"), [
    ("tiny-a14b", None, "has two experts; say which is trained: expert: high or expert: low$"),
    ("tiny", "high", "has no experts; leave out `expert`$"),
    ("tiny", "low", "has no experts; leave out `expert`$"),
])
def test_experts_are_named_where_there_are_some(
    wan_recipe: NewRecipe, geometry: str, expert: str | None, fault: str
) -> None:
    with pytest.raises(ValueError, match=fault):
        objective_of(wan_recipe(geometry, expert=expert), ALONE)


# Folders that won't do


def test_a_folder_that_is_no_pipeline_is_named(wan_recipe: NewRecipe, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no model_index.json; give a pipeline folder"):
        objective_of(wan_recipe(base=str(tmp_path)), ALONE)
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "WanPipeline"}))
    with pytest.raises(ValueError, match=r"there is no transformer; give a Wan pipeline"):
        objective_of(wan_recipe(base=str(tmp_path)), ALONE)


def test_a_base_that_cannot_be_fetched_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, **options: Any) -> str:
        raise OSError("no connection\nat all")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(ValueError, match=r'^base "someone/wan" is no folder, and cannot be had .*: no connection$'):
        start.find_folder("someone/wan")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **options: f"/cache/{name}")
    assert start.find_folder("someone/wan") == Path("/cache/someone/wan")
