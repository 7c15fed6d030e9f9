"""Where a model's name leads."""

from pathlib import Path

import pytest

from alchemint.cli.models import TOY_FOLDER, ModelSource, find_model


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


def test_the_edition_tells_weights_apart(tmp_path: Path) -> None:
    (tmp_path / "transformer").mkdir()
    weights, config = tmp_path / "transformer" / "model.safetensors", tmp_path / "model_index.json"
    weights.write_bytes(bytes(3_000_000))
    config.write_text("{}")
    first = find_model(str(tmp_path)).edition
    assert find_model(f"{tmp_path}/").edition == first
    (tmp_path / "notes.txt").write_text("no part of the model")
    assert find_model(str(tmp_path)).edition == first
    editions = {first}
    weights.write_bytes(bytes(2_999_999) + b"x")
    editions.add(find_model(str(tmp_path)).edition)
    weights.write_bytes(bytes(3_000_001))
    editions.add(find_model(str(tmp_path)).edition)
    config.write_text('{"fps": 6}')
    editions.add(find_model(str(tmp_path)).edition)
    assert len(editions) == 4
    revision = tmp_path / "snapshots" / "0123abc"
    assert ModelSource("owner/name", revision).edition == "0123abc"


@pytest.mark.parametrize("name", ["nothing", "./nothing", "a/b/c", "", "../../x"])
def test_what_is_neither_folder_nor_hub_name_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    with pytest.raises(ValueError, match="neither toy nor a folder nor a name on the hub"):
        find_model(name)
