"""The subjects' pictures: an atlas of emoji, cut into sprites that are ready to be recoloured.

The atlas is drawn from Noto Color Emoji (SIL Open Font License 1.1, see assets/OFL.txt) by scripts/build_sprites.py.
A sprite's colours are held as a level (its brightness, stretched over 0..255) and a chroma (how the rest of its colour
differs from the sprite's mean), because a look gives new colours to the levels and turns the chroma.
"""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
from PIL import Image

CELL = 96
"""Side of an atlas cell in pixels; a sprite's long side is a few pixels less."""

NUM_COLUMNS = 20
SPLITS = ("train", "validation", "heldout")

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_HUE_AXES = np.array([[1.0, -0.5, -0.5], [0.0, 0.8660254, -0.8660254]], np.float32)
_OUTLINE_LEVEL = 60
"""Brightness below which a pixel is taken for outline; it does not count when a sprite's range is measured."""


@dataclass(frozen=True)
class Subject:
    """One entry of the atlas: the word that names it, its kind ("beast", "vehicle", ...), and its place."""

    word: str
    kind: str
    cell: int
    width: int
    height: int


@dataclass(frozen=True, eq=False)
class Sprite:
    """A subject's picture, cropped: alpha and level uint8 (height, width), chroma float32 (height, width, 3).

    `hue` is the angle in radians of the colour that dominates it.
    """

    alpha: np.ndarray
    level: np.ndarray
    chroma: np.ndarray
    hue: float


@cache
def subjects(split: str) -> tuple[Subject, ...]:
    """Return the subjects of a split; "train" and "validation" have the same ones, "heldout" has others."""
    if split not in SPLITS:
        raise ValueError(f'split "{split}": there is no such split; use one of {", ".join(SPLITS)}')
    table = json.loads((files(__package__) / "assets/sprites.json").read_text(encoding="utf-8"))
    return tuple(Subject(row["word"], row["kind"], cell, row["width"], row["height"])
                 for cell, row in enumerate(table) if (row["split"] == "heldout") == (split == "heldout"))


@cache
def subjects_of_kind(split: str, kind: str) -> tuple[Subject, ...]:
    """Return the subjects of a split that are of one kind."""
    return tuple(subject for subject in subjects(split) if subject.kind == kind)


@cache
def sprite(subject: Subject) -> Sprite:
    """Cut a subject's sprite from the atlas."""
    row, column = divmod(subject.cell, NUM_COLUMNS)
    cell = _atlas()[row * CELL:(row + 1) * CELL, column * CELL:(column + 1) * CELL]
    seen_rows, seen_columns = np.nonzero(cell[..., 3])
    cut = cell[seen_rows.min():seen_rows.max() + 1, seen_columns.min():seen_columns.max() + 1]
    rgb, alpha = cut[..., :3].astype(np.float32), cut[..., 3].copy()
    luma = rgb @ _LUMA
    inside = (alpha > 200) & (luma > _OUTLINE_LEVEL)
    low, high = np.percentile(luma[inside], (3, 97)) if inside.any() else (0.0, 255.0)
    stretched = 70 + (luma - low) * (175 / max(float(high - low), 60.0))
    level = np.where(luma < _OUTLINE_LEVEL, luma, np.maximum(stretched, _OUTLINE_LEVEL)).clip(0, 255).astype(np.uint8)
    chroma = rgb - luma[..., None]
    mean = chroma[inside].mean(0) if inside.any() else np.zeros(3, np.float32)
    differences = (chroma - mean) * inside[..., None]
    return Sprite(alpha, level, differences, hue_of(mean))


def hue_of(colour: np.ndarray | tuple[float, float, float]) -> float:
    """Return the angle in radians of an RGB colour on the hue circle."""
    along, across = _HUE_AXES @ np.asarray(colour, np.float32)
    return float(np.arctan2(across, along))


@cache
def _atlas() -> np.ndarray:
    with (files(__package__) / "assets/sprites.webp").open("rb") as file:
        return np.asarray(Image.open(file).convert("RGBA"))
