"""The examples, their pictures, and the schema that editors check storyboards by."""

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from alchemint.storyboard import Defaults, load_storyboard

ROOT = Path(__file__).parent.parent
STORYBOARDS = sorted((ROOT / "examples").glob("*.yaml"))


def script(name: str) -> ModuleType:
    return importlib.import_module(f"scripts.{name}")


@pytest.mark.parametrize("path", STORYBOARDS, ids=[path.stem for path in STORYBOARDS])
@pytest.mark.parametrize(("fps", "num_frames", "size"), [(6.0, 25, 64), (8.0, 33, 96), (16.0, 65, 480)])
def test_examples_have_no_fault_for_any_model(path: Path, fps: float, num_frames: int, size: int) -> None:
    resolved = load_storyboard(path, Defaults(fps, size, size, num_frames, 16))
    lengths = 3 if path.stem == "long" else 1
    assert resolved.num_frames == lengths * (num_frames - 1) + 1
    assert resolved.warnings() == []
    assert resolved.overlapping_events() == []


def test_pictures_are_those_that_the_script_draws() -> None:
    module = script("make_examples")
    shipped = {path.name for path in (ROOT / "examples").glob("*.png")}
    assert shipped == {picture.file for picture in module.PICTURES}
    for picture in module.PICTURES:
        with Image.open(ROOT / "examples" / picture.file) as image:
            shown, drawn = (np.asarray(each).astype(int) for each in (image, module.draw(picture)))
        # Not equal, as Pillow's and numpy's versions round differently.
        assert np.abs(shown - drawn).mean() < 0.5


def test_the_schema_is_that_of_the_code() -> None:
    module = script("export_schema")
    assert module.SCHEMA.read_text(encoding="utf-8") == module.schema_text(), "run scripts/export_schema.py"
