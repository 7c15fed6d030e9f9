"""What a model folder says of itself, and what is no model folder."""

import inspect
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from diffusers import WanTransformer3DModel

from alchemint.model_folder import read_defaults, read_guidance
from alchemint.storyboard import Defaults
from alchemint.wan import layout

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
    with pytest.raises(ValueError, match="holds a WanVACEPipeline, but an AlchemintPipeline or a text-to-video WanPip"):
        read_defaults(write_folder(tmp_path, {**INDEX, "_class_name": "WanVACEPipeline"}))


# Plain Wans


def copy_json(source: Path, target: Path) -> Path:
    return Path(shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.safetensors", "*.pth")))


def test_our_options_defaults_are_the_transformers() -> None:
    from alchemint.model.transformer import AlchemintTransformer3DModel

    ours = inspect.signature(AlchemintTransformer3DModel).parameters
    wans = inspect.signature(WanTransformer3DModel).parameters
    assert {name: value.default for name, value in ours.items() if name not in wans} == layout.NEW_OPTIONS


@pytest.mark.parametrize("kind", ["diffusers", "original"])
@pytest.mark.parametrize(("geometry", "expected"), [
    ("tiny", (16.0, 832, 480, 81, 16)), ("tiny-a14b", (16.0, 832, 480, 81, 16)),
    ("tiny-5b", (24.0, 1280, 704, 121, 32))])
def test_a_plain_wan_is_known_by_its_json_files(
    folder_of: Callable[..., Path], tmp_path: Path, kind: str, geometry: str, expected: tuple[Any, ...]
) -> None:
    from alchemint.pipeline import AlchemintPipeline

    source = folder_of(geometry, layout=kind)
    folder = copy_json(source, tmp_path / "json")
    defaults, transformer = read_defaults(folder)
    fps, width, height, num_frames, size_multiple = expected
    assert defaults == Defaults(fps=fps, width=width, height=height, num_frames=num_frames,
                                size_multiple=size_multiple, max_subjects=16, takes_events=True,
                                events_may_overlap=False)
    pipeline = AlchemintPipeline.from_wan(source)
    assert defaults == pipeline.defaults
    config = {name: list(value) if isinstance(value, tuple) else value
              for name, value in pipeline.transformer.config.items()}
    assert all(config[name] == value for name, value in transformer.items() if name[0] != "_")
    assert read_guidance(folder) == {}


def test_a_transformer_alone_has_its_bases_defaults(folder_of: Callable[..., Path], tmp_path: Path) -> None:
    base = copy_json(folder_of("tiny-5b"), tmp_path / "json")
    (tmp_path / "wan.safetensors").touch()
    assert read_defaults(tmp_path / "wan.safetensors", base) == read_defaults(base)
    (tmp_path / "Phantom-Wan-1.3B.pth").touch()
    defaults, transformer = read_defaults(tmp_path / "Phantom-Wan-1.3B.pth", base)
    assert not defaults.takes_events
    assert transformer["num_word_tokens"] == 0
    assert read_guidance(tmp_path / "Phantom-Wan-1.3B.pth", base) == {"image_scale": 5.0, "text_scale": 7.5}


def test_the_second_transformers_guidance_is_its_own_where_it_differs(tmp_path: Path) -> None:
    index = {"_class_name": "AlchemintPipeline", "guidance": {"image_scale": 2.0, "text_scale": 4.0},
             "guidance_2": {"text_scale": 3.0}}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    assert read_guidance(tmp_path) == {"image_scale": 2.0, "text_scale": 4.0}
    assert read_guidance(tmp_path, second=True) == {"image_scale": 2.0, "text_scale": 3.0}
