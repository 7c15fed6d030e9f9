"""The shipped recipes: all can be loaded, and those of Wan are one code path with other values."""

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from alchemint.data.clip_plans import SampleOptions
from alchemint.training.ranks import divide
from alchemint.training.recipe import TransformerRecipe, VaeRecipe, load_recipe

CONFIGS = sorted(path for path in (Path(__file__).parent.parent / "configs").glob("*.yaml")
                 if not path.stem.startswith("annotate"))
TINY = "wan-tiny-lora"
WAN = {path.stem: path for path in CONFIGS if path.stem.startswith("wan-") and path.stem != TINY}
GEOMETRIES = {"wan-1.3b-lora": "wan2.1-1.3b", "wan-1.3b": "wan2.1-1.3b", "wan-14b": "wan2.1-14b",
              "wan-2.2-5b-lora": "wan2.2-5b", "wan-2.2-a14b-lora": "wan2.2-a14b"}
NUM_GPUS = {"wan-1.3b-lora": 1, "wan-1.3b": 8, "wan-14b": 16, "wan-2.2-5b-lora": 1, "wan-2.2-a14b-lora": 8}


@pytest.fixture(params=WAN)
def name(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def recipe(name: str) -> TransformerRecipe:
    found = load_recipe(WAN[name])
    assert isinstance(found, TransformerRecipe)
    return found


def keys(values: dict[str, Any]) -> set[str]:
    """The dotted paths of a mapping's leaves."""
    return {f"{key}.{inner}" for key, value in values.items() if isinstance(value, dict) for inner in keys(value)} | {
        key for key, value in values.items() if not isinstance(value, dict)}


def test_every_wan_is_here() -> None:
    assert set(WAN) == set(GEOMETRIES)


def test_a_first_look_is_the_way_of_the_others() -> None:
    tiny, other = (yaml.safe_load((CONFIGS[0].parent / f"{one}.yaml").read_text(encoding="utf-8"))
                   for one in (TINY, "wan-1.3b-lora"))
    assert keys(tiny) - {"run.log_every"} <= keys(other)
    assert all(tiny[same] == other[same] for same in ("kind", "model", "dropout", "subject_weight"))


@pytest.mark.parametrize("path", CONFIGS, ids=[path.stem for path in CONFIGS])
def test_every_recipe_is_valid(path: Path) -> None:
    recipe = load_recipe(path)
    assert isinstance(recipe, VaeRecipe if "-vae" in path.stem else TransformerRecipe)
    assert recipe.output == Path("runs") / path.stem


def test_wans_differ_only_in_values(name: str) -> None:
    first, other = (yaml.safe_load(WAN[one].read_text(encoding="utf-8")) for one in ("wan-14b", name))
    assert keys(other) - {"lora.rank", "expert"} == keys(first)
    assert first["kind"] == other["kind"] == "transformer"
    assert first["model"] == other["model"] and first["dropout"] == other["dropout"]
    assert ("lora" in other) == name.endswith("-lora")


def test_the_loss_and_the_rates_are_the_papers(recipe: TransformerRecipe) -> None:
    assert recipe.subject_weight == 0
    assert (recipe.dropout.image, recipe.dropout.text, recipe.dropout.both) == (0.1, 0.1, 0.05)
    assert (recipe.optimizer.new_lr, recipe.optimizer.warmup_steps) == (1e-4, 1000)
    if recipe.lora is None:
        assert (recipe.optimizer.lr, recipe.run.batch_size, recipe.run.steps) == (3e-5, 32, 30_000)


def test_samples_are_what_the_model_can_take(name: str, recipe: TransformerRecipe, make_wan: ModuleType) -> None:
    assert recipe.data is not None and recipe.data.cache is not None
    geometry = make_wan.GEOMETRIES[GEOMETRIES[name]]
    options = recipe.data.sample_options(recipe.canvas_share, False, geometry.vae.get("scale_factor_spatial", 8))
    assert isinstance(options, SampleOptions)
    for size in recipe.data.sizes:
        assert not any(side % (2 * options.latent_stride) for side in size), "a patch is 2 x 2 latents"
    assert (recipe.expert is not None) == (geometry.boundary_ratio is not None)


def test_the_batch_can_be_divided_on_the_gpus_that_are_named(name: str, recipe: TransformerRecipe) -> None:
    ranks = divide(recipe.run, 0, NUM_GPUS[name])
    assert recipe.run.batch_size == NUM_GPUS[name] * recipe.run.accumulate, "one sample a backward pass"
    assert ranks.is_sharded == (NUM_GPUS[name] > 1)
    assert recipe.run.checkpoint_activations and recipe.run.compile


def test_the_clips_are_named_on_the_command_line(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(WAN[name], [f"data.clips={tmp_path}", "run.accumulate=2", "model.event_encoding=null"])
    assert isinstance(recipe, TransformerRecipe) and recipe.data is not None
    assert (recipe.data.clips, recipe.run.accumulate) == (str(tmp_path), 2)
    assert recipe.model["event_encoding"] is None
