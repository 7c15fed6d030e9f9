"""What a model folder says of itself, and what is no model folder."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from alchemint.model_folder import read_defaults
from alchemint.storyboard import Defaults

INDEX = {"_class_name": "AlchemintPipeline", "width": 96, "height": 64, "num_frames": 33, "fps": 8.0}
VAE = {"scale_factor_spatial": 16}
TRANSFORMER = {"patch_size": [1, 2, 2], "num_subject_indices": 5, "event_encoding": "rerope", "num_layers": 3}


def write_folder(folder: Path, index: Any = None, **transformer: Any) -> Path:
    for name, values in (("model_index.json", index or INDEX), ("vae/config.json", VAE),
                         ("transformer/config.json", {**TRANSFORMER, **transformer})):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(values), encoding="utf-8")
    return folder


def test_defaults_and_config_are_read(tmp_path: Path) -> None:
    defaults, transformer = read_defaults(write_folder(tmp_path))
    assert defaults == Defaults(fps=8.0, width=96, height=64, num_frames=33, size_multiple=32, max_subjects=5,
                                takes_events=True, events_may_overlap=False)
    assert transformer == TRANSFORMER


@pytest.mark.parametrize(("encoding", "takes", "overlap"), [
    ("rerope", True, False), ("tie", True, True), (None, False, True)])
def test_the_event_encoding_decides_what_events_may_be(
    tmp_path: Path, encoding: str | None, takes: bool, overlap: bool
) -> None:
    defaults, _ = read_defaults(write_folder(tmp_path, event_encoding=encoding))
    assert (defaults.takes_events, defaults.events_may_overlap) == (takes, overlap)


@pytest.mark.parametrize("missing", ["model_index.json", "vae", "transformer"])
def test_a_folder_without_a_part_is_no_model_folder(tmp_path: Path, missing: str) -> None:
    path = write_folder(tmp_path / "model") / missing
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=rf"^{tmp_path / 'model'} is no model folder: "):
        read_defaults(tmp_path / "model")


def test_another_pipelines_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds a WanPipeline, but an AlchemintPipeline is needed"):
        read_defaults(write_folder(tmp_path, {**INDEX, "_class_name": "WanPipeline"}))
