"""Looks: how one instance of a subject is coloured and patterned, so that its word does not tell what it looks like."""

from dataclasses import dataclass

import numpy as np

from alchemint.toyworld import sprites

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 58, 54),
    "orange": (242, 138, 38),
    "yellow": (246, 208, 62),
    "green": (82, 176, 74),
    "teal": (44, 172, 166),
    "blue": (60, 118, 226),
    "purple": (142, 86, 206),
    "pink": (244, 130, 184),
    "brown": (152, 98, 58),
    "white": (236, 234, 230),
    "grey": (138, 142, 150),
    "black": (66, 64, 76),
}

PATTERNS = ("plain", "stripes", "dots", "halves", "patches")
_PATTERN_ODDS = (0.28, 0.24, 0.18, 0.16, 0.14)
_NEAR = 85.0
"""Distance in RGB below which two colours are too alike to lie on each other."""

_KEPT_CHROMA = 0.45
"""How much of a sprite's own differences in colour stays, so that its parts can be told apart."""


@dataclass(frozen=True)
class Look:
    """A colour by name and the exact RGB, the RGB of the pattern on it, and the pattern's shape.

    `angle` (radians), `period` (in sprite widths) and `phase` place the pattern.
    """

    colour: str
    base: tuple[float, float, float]
    accent: tuple[float, float, float]
    pattern: str
    angle: float
    period: float
    phase: float


def draw_look(rng: np.random.Generator, behind: np.ndarray, taken: tuple[str, ...] = (), plain: bool = False) -> Look:
    """Draw a look that stands out from the RGB colour `behind` it and has none of the colour names `taken`.

    `plain` leaves the pattern away, for subjects that are told apart by their colour's name.
    """
    names = [name for name in _far_from(behind, _NEAR) if name not in taken]
    colour = names[rng.integers(len(names))]
    accents = _far_from(COLOURS[colour], 1.2 * _NEAR)
    accent = COLOURS[accents[rng.integers(len(accents))]]
    shifts = rng.uniform(-16, 16, (2, 3))
    pattern = str(rng.choice(PATTERNS, p=_PATTERN_ODDS))
    return Look(colour, tuple(np.clip(COLOURS[colour] + shifts[0], 20, 250)),
                tuple(np.clip(accent + shifts[1], 20, 250)), "plain" if plain else pattern,
                float(rng.uniform(0, np.pi)), float(rng.uniform(0.3, 0.42)), float(rng.uniform(0, 1)))


def dress(sprite: sprites.Sprite, look: Look) -> np.ndarray:
    """Return the sprite in its look, uint8 RGBA (height, width, 4); shading and outline stay."""
    kept = _KEPT_CHROMA * min(1.0, 0.3 + (max(look.base) - min(look.base)) / 140)
    turn = _hue_turn(sprites.hue_of(look.base) - sprite.hue) * np.float32(kept)
    colours = _shades(look.base)[sprite.level]
    if look.pattern != "plain":
        amount = _pattern(look, *sprite.level.shape)[..., None]
        colours += amount * (_shades(look.accent)[sprite.level] - colours)
    colours += sprite.chroma @ turn.T
    dressed = np.empty((*sprite.level.shape, 4), np.uint8)
    dressed[..., :3] = colours.clip(0, 255)
    dressed[..., 3] = sprite.alpha
    return dressed


def _far_from(colour: np.ndarray | tuple[int, int, int], distance: float) -> list[str]:
    """Return the names of the colours that are more than `distance` away from `colour` in RGB."""
    away = np.linalg.norm(np.array(list(COLOURS.values())) - colour, axis=1)
    return [name for name, far in zip(COLOURS, away > distance, strict=True) if far]


def _shades(colour: tuple[float, float, float]) -> np.ndarray:
    """Return the colour that each level 0..255 becomes, float32 (256, 3): dark, then the colour, then near white."""
    rgb = np.array(colour, np.float32)
    stops = np.stack([rgb * 0.12, rgb * 0.25, rgb * 0.72, rgb, rgb + 0.62 * (255 - rgb)])
    levels = np.arange(256)
    return np.stack([np.interp(levels, (0, 60, 90, 165, 255), stops[:, channel]) for channel in range(3)],
                    axis=-1).astype(np.float32)


def _hue_turn(angle: float) -> np.ndarray:
    """Return the rotation (3, 3) of RGB about the grey axis by `angle` radians."""
    cos, sin = np.cos(angle), np.sin(angle)
    axis = 1 / np.sqrt(3)
    cross = axis * np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]])
    return (cos * np.eye(3) + (1 - cos) / 3 + sin * cross).astype(np.float32)


def _pattern(look: Look, height: int, width: int) -> np.ndarray:
    """Return how much of the accent each pixel gets, float32 (height, width) in 0..1."""
    side = max(height, width)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    cos, sin = np.float32(np.cos(look.angle)), np.float32(np.sin(look.angle))
    along, across = (x * cos + y * sin) / side, (y * cos - x * sin) / side
    if look.pattern == "halves":
        middle = (height * sin + width * cos) / (2 * side)
        return ((along - middle) * side * 0.5 + 0.5).clip(0, 1)
    turns = np.float32(2 * np.pi / look.period)
    start = np.float32(2 * np.pi * look.phase)
    waves = {
        "stripes": np.sin(along * turns + start),
        "dots": np.sin(along * turns + start) + np.sin(across * turns) - np.float32(0.55),
        "patches": np.sin(along * turns * 0.8 + start + np.sin(across * turns * 0.6) * 1.8)
        + 0.6 * np.sin(across * turns * 0.7 + 2 * start) - 0.15,
    }
    return (waves[look.pattern] * side * look.period * 0.12 + 0.5).clip(0, 1)
