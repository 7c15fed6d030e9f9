"""Recipes: each fault is one line that names it; the fingerprint tells what decides the weights."""

from pathlib import Path

import pytest

from alchemint.training.recipe import TransformerRecipe, VaeRecipe, fingerprint, load_recipe

CONFIGS = Path(__file__).parents[2] / "configs"

RECIPE = """
kind: vae
output: runs/tiny
model: {base_dim: 8}
optimizer: {lr: 1.0e-3}
run: {steps: 10, batch_size: 2}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


@pytest.mark.parametrize(("name", "kind"), [
    ("toy-vae.yaml", VaeRecipe), ("toy.yaml", TransformerRecipe),
    ("toy-96-vae.yaml", VaeRecipe), ("toy-96-vae-motion.yaml", VaeRecipe), ("toy-96.yaml", TransformerRecipe)])
def test_the_shipped_recipes_are_valid(name: str, kind: type) -> None:
    assert isinstance(load_recipe(CONFIGS / name), kind)


def test_overrides_reach_into_sections(path: Path) -> None:
    recipe = load_recipe(path, ["optimizer.lr=1e-4", "run.steps=7", "world.width=96", "model.dim_mult=[1, 2]",
                                "output=runs/other", "optimizer.new_lr=null"])
    assert isinstance(recipe, VaeRecipe)
    assert (recipe.optimizer.lr, recipe.run.steps, recipe.world.width) == (1e-4, 7, 96)
    assert recipe.model == {"base_dim": 8, "dim_mult": [1, 2]}
    assert recipe.output == Path("runs/other")
    assert recipe.optimizer.new_lr is None


@pytest.mark.parametrize(("override", "message"), [
    ("optimizer.lrr=1", r"optimizer\.lrr: Extra inputs are not permitted \(given: 1\)"),
    ("seeds=1", r"seeds: Extra inputs are not permitted"),
    ("run.steps=0", r"run\.steps: Input should be greater than 0 \(given: 0\)"),
    ("optimizer.lr=fast", r"optimizer\.lr: .*number.* \(given: 'fast'\)"),
    ("run.precision=float16", r"run\.precision: Input should be 'auto', 'float32' or 'bfloat16'"),
    ("kind=gan", r"kind: Input tag 'gan' .*'vae', 'transformer'"),
    ("run.steps", r'override "run\.steps": write it as key\.path=value'),
    ("run.steps.more=1", r'override "run\.steps\.more=1": "steps" is not a section of the recipe'),
    ("run.steps=[1", r'override "run\.steps=\[1": "\[1" is not valid YAML'),
])
def test_a_fault_is_one_line_that_names_it(path: Path, override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load_recipe(path, [override])
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(("name", "override", "message"), [
    ("wan-1.3b-lora.yaml", "guide.weight=0.1", "clips of the toyworld tell it, those of data do not"),
    ("toy.yaml", "run.context_parallel=2", "set run.context_parallel to 1"),
    ("toy.yaml", "clips.own_frame_share=1", "which spot of a cut-out a token shows is not known"),
    ("toy.yaml", "guide.blocks=[]", r"guide\.blocks: .*at least 1 item")])
def test_attention_is_not_guided_where_nothing_can_guide_it(name: str, override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_recipe(CONFIGS / name, [override])


def test_all_faults_are_told_at_once(path: Path) -> None:
    with pytest.raises(ValueError, match=r"run\.steps") as caught:
        load_recipe(path, ["run.steps=-1", "optimizer.lr=0", "wrold=1"])
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize(("text", "message"), [
    (None, "no such recipe file"), ("kind: [", "not valid YAML"), ("- 1", "a mapping of keys to values"),
    ("", "a mapping of keys to values"), ("output: x", "kind: Unable to extract tag")])
def test_a_file_that_is_no_recipe(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "recipe.yaml"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message) as caught:
        load_recipe(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(("override", "same"), [
    ("output=elsewhere", True), ("run.steps=99", True), ("run.max_minutes=3", True), ("run.num_workers=0", True),
    ("run.device=cpu", True), ("seed=1", False), ("optimizer.lr=2e-3", False), ("run.batch_size=4", False),
    ("world.fps=6", False), ("init_from=there", True),
    ("model.base_dim=16", False), ("run.ema_decay=0.5", False), ("kl_weight=0", False)])
def test_the_fingerprint_tells_what_decides_the_weights(path: Path, override: str, same: bool) -> None:
    assert (fingerprint(load_recipe(path, [override])) == fingerprint(load_recipe(path))) == same


def test_a_fingerprint_is_of_what_a_recipe_uses() -> None:
    lora = CONFIGS / "wan-1.3b-lora.yaml"
    assert fingerprint(load_recipe(lora, ["world.num_frames=49"])) == fingerprint(load_recipe(lora))
    toy = CONFIGS / "toy.yaml"
    assert fingerprint(load_recipe(toy, ["world.num_frames=49"])) != fingerprint(load_recipe(toy))


def test_clips_may_lie_in_an_object_store() -> None:
    recipe = load_recipe(CONFIGS / "wan-1.3b-lora.yaml", ["data.clips=s3://bucket/clips"])
    assert isinstance(recipe, TransformerRecipe) and recipe.data is not None
    assert recipe.data.clips == "s3://bucket/clips"
