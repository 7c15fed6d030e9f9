"""What a pipeline folder says of itself in its JSON files; read without loading torch or any weights."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alchemint.storyboard import Defaults

PIPELINE_CLASS = "AlchemintPipeline"


def read_defaults(folder: str | Path) -> tuple[Defaults, dict[str, Any]]:
    """Return a pipeline folder's defaults and its transformer's config.

    Raises ValueError when the folder holds no AlcheMinT pipeline.
    """
    folder = Path(folder)
    try:
        pipeline, vae, transformer = (json.loads((folder / name).read_text(encoding="utf-8")) for name in (
            "model_index.json", "vae/config.json", "transformer/config.json"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} is no model folder: {error}; a model folder holds model_index.json and the folders "
                         "vae and transformer") from error
    if pipeline.get("_class_name") != PIPELINE_CLASS:
        raise ValueError(f'{folder} holds a {pipeline.get("_class_name", "pipeline of unknown kind")}, '
                         f"but an {PIPELINE_CLASS} is needed")
    return defaults_of(pipeline, vae, transformer), transformer


def read_guidance(folder: str | Path) -> dict[str, Any]:
    """Return the values of guidance that a pipeline folder names as its model's own, by name."""
    index = json.loads((Path(folder) / "model_index.json").read_text(encoding="utf-8"))
    guidance: dict[str, Any] = index.get("guidance") or {}
    return guidance


def defaults_of(pipeline: Mapping[str, Any], vae: Mapping[str, Any], transformer: Mapping[str, Any]) -> Defaults:
    """Return what a model makes when a storyboard does not say, and what it takes, from its three configs."""
    encoding = transformer["event_encoding"]
    return Defaults(
        fps=pipeline["fps"], width=pipeline["width"], height=pipeline["height"], num_frames=pipeline["num_frames"],
        size_multiple=vae["scale_factor_spatial"] * transformer["patch_size"][-1],
        max_subjects=transformer["num_subject_indices"], takes_events=encoding is not None,
        events_may_overlap=encoding != "rerope")
