"""Where a model's name leads."""

from pathlib import Path

import pytest

from alchemint.cli.models import TOY_FOLDER, find_model


def test_toy_is_inside_the_package() -> None:
    import alchemint

    assert TOY_FOLDER.is_relative_to(Path(alchemint.__file__).parent)
    if (TOY_FOLDER / "model_index.json").is_file():
        assert find_model("toy").config_folder == TOY_FOLDER
    else:
        with pytest.raises(ValueError, match="holds no toy weights"):
            find_model("toy")


def test_a_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    source = find_model(str(tmp_path))
    assert (source.pretrained, source.config_folder) == (str(tmp_path), tmp_path)


@pytest.mark.parametrize("name", ["nothing", "./nothing", "a/b/c", "", "../../x"])
def test_what_is_neither_folder_nor_hub_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="neither toy nor a folder nor a name on the hub"):
        find_model(name)
