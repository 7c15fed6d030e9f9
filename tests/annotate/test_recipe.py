"""The recipe of an annotation: its defaults, its faults, and what its key depends on."""

from pathlib import Path

import pytest

from alchemint.annotate.recipe import Recipe, load_recipe

CONFIGS = Path(__file__).parents[2] / "configs"


def test_the_shipped_recipes_load() -> None:
    assert load_recipe(CONFIGS / "annotate-toy.yaml").perception.kind == "toy"
    shipped, default = load_recipe(CONFIGS / "annotate.yaml"), Recipe()
    for section in ("shots", "captions", "perception", "filters", "shards"):
        assert getattr(shipped, section) == getattr(default, section), "the file says that these are the defaults"


def test_overrides_win() -> None:
    recipe = load_recipe(CONFIGS / "annotate-toy.yaml", ["filters.min_area=0.5", "filters.min_sharpness=null"])
    assert (recipe.filters.min_area, recipe.filters.min_sharpness) == (0.5, None)
    assert load_recipe(None, ["words.most=2"]).words.most == 2


@pytest.mark.parametrize(("override", "message"), [
    ("filters.min_areas=1", "filters.min_areas: Extra inputs are not permitted"),
    ("filters.min_area=1.5", "filters.min_area: Input should be less than 1"),
    ("words.by=model", "words.model.model"),
    ("captions.by=model", "captions.model.model"),
    ("perception.kind=yolo", "perception.kind: Input should be 'grounded-sam2'"),
    ("shots", "write it as key.path=value"),
])
def test_faults_name_the_key(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_recipe(None, [override])


@pytest.mark.parametrize(("override", "changes"), [
    ("filters.min_area=0.01", True), ("perception.num_search_frames=9", True), ("shots.longest_s=9", True),
    ("words.most=3", True), ("words.model.model=a", True), ("words.model.url=http://there", False),
    ("words.model.timeout_s=9", False), ("shards.num_files=3", False),
])
def test_the_key_depends_on_what_results_depend_on(override: str, changes: bool) -> None:
    assert (load_recipe(None, [override]).key != Recipe().key) is changes
