"""What a model says of itself in its JSON files; read without loading torch or any weights."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alchemint.storyboard import Defaults
from alchemint.wan import layout

PIPELINE_CLASS = "AlchemintPipeline"


def read_defaults(folder: str | Path, base: str | Path | None = None) -> tuple[Defaults, dict[str, Any]]:
    """Return a model's defaults and its transformer's config.

    folder: a pipeline of ours, or a plain Wan in either layout; with `base`, a transformer alone, a file or a folder,
    and the Wan that has the rest. A plain Wan's config comes with our options' defaults. Raises ValueError where there
    is no such model.
    """
    folder = Path(folder)
    if base is not None or layout.is_wan(folder):
        found = layout.find(folder, None if base is None else Path(base))
        vae = {"scale_factor_spatial": found.vae_stride}
        return defaults_of(found.pipeline_config, vae, found.transformer_config), found.transformer_config
    try:
        pipeline, vae, transformer = (json.loads((folder / name).read_text(encoding="utf-8")) for name in (
            "model_index.json", "vae/config.json", "transformer/config.json"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} is no model folder: {error}; a model folder holds model_index.json and the folders "
                         "vae and transformer") from error
    if pipeline.get("_class_name") != PIPELINE_CLASS:
        raise ValueError(f'{folder} holds a {pipeline.get("_class_name", "pipeline of unknown kind")}, '
                         f"but an {PIPELINE_CLASS} or a text-to-video WanPipeline is needed")
    return defaults_of(pipeline, vae, transformer), transformer


def read_guidance(folder: str | Path, base: str | Path | None = None, second: bool = False) -> dict[str, Any]:
    """Return the values of guidance that a model names as its own, by name; with `second` those of its second
    transformer, where they differ."""
    folder = Path(folder)
    if base is not None or layout.is_wan(folder):
        return layout.find(folder, None if base is None else Path(base)).guidance
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    guidance: dict[str, Any] = index.get("guidance") or {}
    return {**guidance, **(index.get("guidance_2") or {})} if second else guidance


def defaults_of(pipeline: Mapping[str, Any], vae: Mapping[str, Any], transformer: Mapping[str, Any]) -> Defaults:
    """Return what a model makes when a storyboard does not say, and what it takes, from its three configs."""
    encoding = transformer["event_encoding"]
    return Defaults(
        fps=pipeline["fps"], width=pipeline["width"], height=pipeline["height"], num_frames=pipeline["num_frames"],
        size_multiple=vae["scale_factor_spatial"] * transformer["patch_size"][-1],
        max_subjects=transformer["num_subject_indices"], takes_events=encoding is not None,
        events_may_overlap=encoding != "rerope")
