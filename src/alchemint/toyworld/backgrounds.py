"""The places of the toyworld: painted with random palettes, simple enough to learn and pretty enough to look at."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from alchemint.toyworld.canvas import Canvas

Rng = np.random.Generator


@dataclass(frozen=True)
class Place:
    """A kind of background.

    `moods` are the phrases a caption may use ("a sunny meadow"), each with the colours `paint` takes; `ground` is the
    range of y, in frame heights, on which feet may stand, or None where everything floats; `stand`, `cross` and `over`
    are the prepositions for being there, for covering ground and for being in the air.
    """

    moods: dict[str, tuple[tuple[float, float, float], ...]]
    ground: tuple[float, float] | None
    paint: Callable[[Canvas, Rng, list[np.ndarray]], None]
    stand: str = "in"
    cross: str = "across"
    over: str = "over"


@dataclass(frozen=True)
class Background:
    """A painted background: its place by name, its phrase in captions, and uint8 (height, width + 2 margin, 3)."""

    name: str
    place: Place
    phrase: str
    image: np.ndarray


def draw_background(rng: Rng, width: int, height: int, margin: int) -> Background:
    """Draw a place, a mood and its palette, and paint it for a frame with `margin` more pixels on either side."""
    names = list(PLACES)
    name = names[rng.integers(len(names))]
    place = PLACES[name]
    phrases = list(place.moods)
    phrase = phrases[rng.integers(len(phrases))]
    canvas = Canvas(width, height, margin)
    light = rng.uniform(-10, 10, 3)
    palette = [np.clip(colour + light + rng.uniform(-9, 9, 3), 0, 255) for colour in np.array(place.moods[phrase])]
    place.paint(canvas, rng, palette)
    return Background(name, place, phrase, canvas.image())


def _hills(canvas: Canvas, rng: Rng, level: float, height: float, waves: float = 1.0) -> np.ndarray:
    """Return a wavy line y(x) around `level`."""
    phases = rng.uniform(0, 2 * np.pi, 2)
    lengths = rng.uniform(0.8, 1.4, 2) * waves
    return level - height * (0.65 * np.sin(canvas.x * 4.2 * lengths[0] + phases[0])
                             + 0.35 * np.sin(canvas.x * 9.1 * lengths[1] + phases[1]))


def _somewhere(canvas: Canvas, rng: Rng) -> float:
    """Return a random x on the canvas."""
    return float(rng.uniform(canvas.x[0], canvas.x[-1]))


def _spread(canvas: Canvas, rng: Rng, count: int) -> list[float]:
    """Return `count` random x, one in each of as many equal parts of the canvas."""
    left, right = float(canvas.x[0]), float(canvas.x[-1])
    return [left + (right - left) * (part + float(rng.uniform(0.15, 0.85))) / count for part in range(count)]


def _clouds(canvas: Canvas, rng: Rng, count: int, top: float, bottom: float, colour: np.ndarray) -> None:
    for x in _spread(canvas, rng, count):
        y, size = float(rng.uniform(top, bottom)), float(rng.uniform(0.05, 0.085))
        for shift, part in ((-1.2, 0.65), (0.0, 1.0), (1.2, 0.75)):
            canvas.disc(x + shift * size, y + (1 - part) * size * 0.6, size * part * 1.15, colour, flat=0.62, soft=0.03,
                        opacity=0.8)


def _stars(canvas: Canvas, rng: Rng, count: int, bottom: float, colour: np.ndarray) -> None:
    rows = rng.integers(0, max(1, int(bottom / canvas.pixel)), count)
    columns = rng.integers(0, len(canvas.x), count)
    canvas.pixels[rows, columns] += (colour - canvas.pixels[rows, columns]) * rng.uniform(0.35, 0.95, (count, 1))


def _meadow(canvas: Canvas, rng: Rng, colours: list[np.ndarray]) -> None:
    sky, horizon, far, near, flowers = colours
    canvas.gradient(sky, horizon, 0, 0.6)
    _clouds(canvas, rng, 2, 0.1, 0.3, horizon * 0.4 + 150)
    canvas.below(_hills(canvas, rng, 0.52, 0.05), far)
    canvas.below(_hills(canvas, rng, 0.64, 0.025), near, near * 0.82)
    for x in _spread(canvas, rng, 9):
        canvas.disc(x, float(rng.uniform(0.7, 0.97)), 0.014, flowers)


def _beach(canvas: Canvas, rng: Rng, colours: list[np.ndarray]) -> None:
    sky, horizon, sea, shallow, sand = colours
    canvas.gradient(sky, horizon, 0, 0.42)
    canvas.disc(_somewhere(canvas, rng), float(rng.uniform(0.14, 0.3)), 0.075, horizon * 0.3 + 175, soft=0.02)
    canvas.below(0.42, sea, shallow)
    canvas.below(_hills(canvas, rng, 0.63, 0.014), shallow * 0.35 + 160)
    canvas.below(_hills(canvas, rng, 0.655, 0.014), sand, sand * 0.9)


def _night(canvas: Canvas, rng: Rng, colours: list[np.ndarray]) -> None:
    sky, horizon, moon, far, near = colours
    canvas.gradient(sky, horizon, 0, 0.75)
    _stars(canvas, rng, len(canvas.x) // 2, 0.6, moon)
    x, y = _somewhere(canvas, rng), float(rng.uniform(0.13, 0.24))
    canvas.disc(x, y, 0.15, moon, soft=0.14, opacity=0.22)
    canvas.disc(x, y, 0.075, moon)
    canvas.below(_hills(canvas, rng, 0.66, 0.05), far)
    canvas.below(_hills(canvas, rng, 0.75, 0.02), near, near * 0.8)


def _city(canvas: Canvas, rng: Rng, colours: list[np.ndarray]) -> None:
    sky, horizon, walls, windows, street = colours
    canvas.gradient(sky, horizon, 0, 0.7)
    canvas.below(_skyline(canvas, rng, 0.3, 0.5), walls * 0.4 + horizon * 0.6)
    left = float(canvas.x[0])
    while left < canvas.x[-1]:
        width, top = float(rng.uniform(0.17, 0.28)), float(rng.uniform(0.26, 0.5))
        shade = walls * float(rng.uniform(0.85, 1.12))
        canvas.box(left, top, left + width, 0.8, shade.clip(0, 255))
        for row in np.arange(top + 0.06, 0.64, 0.11):
            for column in np.arange(left + 0.04, left + width - 0.05, 0.075):
                canvas.box(column, row, column + 0.035, row + 0.05, windows, opacity=0.75)
        left += width + 0.012
    canvas.below(0.7, street * 0.75 + 60, street * 0.75 + 60)
    canvas.below(0.745, street, street * 0.85)
    for x in np.arange(float(canvas.x[0]) + 0.05, float(canvas.x[-1]), 0.24):
        canvas.box(x, 0.885, x + 0.12, 0.905, street * 0.4 + 140)


def _skyline(canvas: Canvas, rng: Rng, top: float, bottom: float) -> np.ndarray:
    tops = rng.uniform(top, bottom, 64)
    return tops[((canvas.x + 1) / 0.11).astype(int) % 64]


def _room(canvas: Canvas, rng: Rng, colours: list[np.ndarray]) -> None:
    wall, floor, frame, glass, rug = colours
    canvas.gradient(wall * 0.97, wall, 0, 0.7)
    canvas.below(0.68, wall * 0.3 + 165, wall * 0.3 + 165)
    canvas.below(0.71, floor, floor * 0.85)
    x = float(rng.uniform(0.15, 0.6)) * canvas.right
    canvas.box(x, 0.13, x + 0.3, 0.47, frame)
    canvas.box(x + 0.025, 0.155, x + 0.14, 0.445, glass)
    canvas.box(x + 0.16, 0.155, x + 0.275, 0.445, glass)
    other = x + 0.45 if x + 0.7 < canvas.right else x - 0.28
    canvas.box(other, 0.2, other + 0.2, 0.37, frame * 0.8)
    canvas.box(other + 0.02, 0.22, other + 0.18, 0.35, rug * 0.6 + 80)
    canvas.disc(float(rng.uniform(0.35, 0.65)) * canvas.right, 0.88, 0.38, rug, flat=0.2)


def _snow(canvas: Canvas, rng: Rng, colours: list[np.ndarray]) -> None:
    sky, horizon, trees, far, near = colours
    canvas.gradient(sky, horizon, 0, 0.6)
    canvas.below(_hills(canvas, rng, 0.54, 0.05), far)
    for x in _spread(canvas, rng, 6):
        size, foot = float(rng.uniform(0.13, 0.22)), float(rng.uniform(0.58, 0.66))
        canvas.triangle(x, foot - size, foot, size * 0.36, trees)
        canvas.triangle(x, foot - size * 1.05, foot - size * 0.55, size * 0.2, near)
    canvas.below(_hills(canvas, rng, 0.65, 0.02), near, near * 0.93)


def _desert(canvas: Canvas, rng: Rng, colours: list[np.ndarray]) -> None:
    sky, horizon, sun, far, near = colours
    canvas.gradient(sky, horizon, 0, 0.55)
    canvas.disc(_somewhere(canvas, rng), float(rng.uniform(0.15, 0.28)), 0.085, sun)
    canvas.below(_hills(canvas, rng, 0.52, 0.05, 0.8), far)
    canvas.below(_hills(canvas, rng, 0.6, 0.035, 0.6), far * 0.5 + near * 0.5)
    canvas.below(_hills(canvas, rng, 0.69, 0.03, 0.7), near, near * 0.88)


def _forest(canvas: Canvas, rng: Rng, colours: list[np.ndarray]) -> None:
    light, deep, trunks, leaves, ground = colours
    canvas.gradient(light, light * 0.6 + deep * 0.4, 0, 0.7)
    for depth, count in ((0.45, 6), (1.0, 4)):
        colour = trunks * depth + light * (1 - depth)
        for x in _spread(canvas, rng, count):
            canvas.box(x, 0, x + 0.05 * (0.5 + depth), 0.74, colour)
    canvas.below(0.68 + 0.02 * np.sin(canvas.x * 5), ground, ground * 0.8)
    for x in _spread(canvas, rng, 8):
        canvas.disc(x, float(rng.uniform(-0.03, 0.06)), 0.15, leaves * float(rng.uniform(0.85, 1.12)), flat=0.8)


def _lake(canvas: Canvas, rng: Rng, colours: list[np.ndarray]) -> None:
    sky, horizon, mountains, water, shore = colours
    canvas.gradient(sky, horizon, 0, 0.5)
    for x in _spread(canvas, rng, 3):
        top, width = float(rng.uniform(0.16, 0.28)), float(rng.uniform(0.3, 0.42))
        canvas.triangle(x, top, 0.5, width, mountains * float(rng.uniform(0.9, 1.08)))
        canvas.triangle(x, top, top + 0.09, width * 0.09 / (0.5 - top), mountains * 0.2 + 190)
    canvas.below(0.49, water, water * 0.85)
    for x in _spread(canvas, rng, 5):
        y = float(rng.uniform(0.53, 0.68))
        canvas.box(x, y, x + 0.16, y + 0.012, water * 0.5 + 120, opacity=0.6)
    canvas.below(_hills(canvas, rng, 0.74, 0.018), shore, shore * 0.85)


def _underwater(canvas: Canvas, rng: Rng, colours: list[np.ndarray]) -> None:
    top, bottom, sand, plants, rays = colours
    canvas.gradient(top, bottom)
    for x in _spread(canvas, rng, 3):
        slant = canvas.x[None] - x + 0.45 * canvas.y
        glow = (1 - np.abs(slant) / 0.09).clip(0, 1) * (1 - canvas.y) * 0.4
        canvas.pixels += glow[..., None] * (rays.astype(np.float32) - canvas.pixels)
    for x in _spread(canvas, rng, 7):
        height = float(rng.uniform(0.1, 0.24))
        for step in np.linspace(0, 1, 6):
            canvas.disc(x + 0.02 * float(np.sin(5 * step + 9 * x)), 0.95 - height * float(step),
                        0.026 * (1.2 - float(step)), plants, flat=1.5)
    canvas.below(_hills(canvas, rng, 0.9, 0.02), sand, sand * 0.85)


def _space(canvas: Canvas, rng: Rng, colours: list[np.ndarray]) -> None:
    dark, glow, planet, ring, stars = colours
    canvas.gradient(dark, dark * 0.7 + glow * 0.3)
    canvas.disc(_somewhere(canvas, rng), float(rng.uniform(0.3, 0.7)), 0.35, glow, flat=0.6, soft=0.6, opacity=0.5)
    _stars(canvas, rng, len(canvas.x), 1.0, stars)
    x, y, radius = _somewhere(canvas, rng), float(rng.uniform(0.15, 0.8)), float(rng.uniform(0.1, 0.16))
    canvas.disc(x, y, radius, planet)
    canvas.disc(x - radius * 0.25, y - radius * 0.25, radius * 0.6, planet * 0.6 + ring * 0.4, soft=radius * 0.8,
                opacity=0.7)
    canvas.box(x - radius * 1.6, y - 0.012, x + radius * 1.6, y + 0.012, ring)


def _sky(canvas: Canvas, rng: Rng, colours: list[np.ndarray]) -> None:
    top, bottom, clouds, sun, _ = colours
    canvas.gradient(top, bottom)
    canvas.disc(_somewhere(canvas, rng), float(rng.uniform(0.1, 0.25)), 0.1, sun, soft=0.05)
    _clouds(canvas, rng, 3, 0.12, 0.4, clouds)
    _clouds(canvas, rng, 3, 0.6, 0.85, clouds)
    canvas.below(_hills(canvas, rng, 0.97, 0.02, 2.0), clouds)


def _stage(canvas: Canvas, rng: Rng, colours: list[np.ndarray]) -> None:
    curtain, dark, boards, light, _ = colours
    folds = 0.5 + 0.5 * np.sin(canvas.x * float(rng.uniform(26, 34)) + float(rng.uniform(0, 6)))
    canvas.pixels[:] = dark + (curtain - dark) * (0.35 + 0.65 * folds[None, :, None])
    canvas.box(-1, 0, 4, 0.09, dark)
    x = float(rng.uniform(0.35, 0.65)) * canvas.right
    canvas.disc(x, 0.4, 0.36, light, soft=0.2, opacity=0.35)
    canvas.below(0.72, boards, boards * 0.8)
    canvas.disc(x, 0.87, 0.4, light, flat=0.25, soft=0.1, opacity=0.45)


def _road(canvas: Canvas, rng: Rng, colours: list[np.ndarray]) -> None:
    sky, horizon, fields, asphalt, line = colours
    canvas.gradient(sky, horizon, 0, 0.5)
    _clouds(canvas, rng, 2, 0.1, 0.25, horizon * 0.4 + 150)
    canvas.below(_hills(canvas, rng, 0.5, 0.03), fields * 0.85)
    canvas.below(0.58, fields, fields * 0.9)
    for x in _spread(canvas, rng, 5):
        canvas.disc(x, 0.565, 0.05, fields * 0.62, flat=0.8)
    canvas.below(0.68, line, line)
    canvas.below(0.695, asphalt, asphalt * 0.85)
    for x in np.arange(float(canvas.x[0]) + 0.05, float(canvas.x[-1]), 0.26):
        canvas.box(x, 0.83, x + 0.14, 0.85, line)


def _garden(canvas: Canvas, rng: Rng, colours: list[np.ndarray]) -> None:
    sky, hedge, fence, lawn, blossoms = colours
    canvas.gradient(sky, sky * 0.6 + 100, 0, 0.5)
    for x in _spread(canvas, rng, 8):
        canvas.disc(x, 0.47, 0.13, hedge * float(rng.uniform(0.9, 1.08)), flat=0.8)
    canvas.below(0.5, hedge * 0.9)
    for x in _spread(canvas, rng, 12):
        canvas.disc(x, float(rng.uniform(0.38, 0.5)), 0.02, blossoms)
    for x in np.arange(float(canvas.x[0]), float(canvas.x[-1]), 0.105):
        canvas.box(x, 0.5, x + 0.06, 0.7, fence)
    canvas.box(-1, 0.55, 4, 0.58, fence * 0.9)
    canvas.below(0.685, lawn, lawn * 0.82)


PLACES: dict[str, Place] = {
    "meadow": Place({
        "a sunny meadow": ((112, 184, 240), (214, 236, 248), (146, 198, 122), (112, 178, 86), (250, 236, 140)),
        "a meadow at dusk": ((104, 92, 160), (246, 172, 140), (120, 128, 110), (92, 118, 84), (246, 190, 200)),
        "a misty meadow": ((184, 204, 214), (226, 234, 232), (166, 190, 170), (134, 168, 132), (246, 246, 240)),
    }, (0.76, 0.97), _meadow),
    "beach": Place({
        "a sandy beach": ((120, 194, 244), (216, 240, 250), (46, 140, 196), (120, 210, 214), (240, 220, 170)),
        "a beach at sunset": ((150, 110, 180), (252, 186, 120), (110, 110, 170), (220, 160, 150), (226, 180, 140)),
    }, (0.76, 0.97), _beach, stand="on"),
    "night": Place({
        "a quiet moonlit night": ((18, 24, 66), (64, 72, 140), (250, 244, 208), (44, 56, 98), (34, 50, 76)),
        "a violet starlit night": ((36, 20, 70), (120, 70, 140), (250, 232, 226), (66, 46, 96), (48, 38, 76)),
    }, (0.82, 0.97), _night, cross="through", over="through"),
    "city": Place({
        "a city street": ((140, 196, 236), (224, 236, 242), (172, 150, 146), (246, 240, 206), (112, 116, 126)),
        "a city street at night": ((24, 28, 62), (70, 66, 120), (58, 60, 96), (250, 216, 120), (58, 60, 76)),
        "a pink city street": ((250, 200, 190), (252, 230, 210), (206, 140, 140), (252, 240, 220), (132, 116, 128)),
    }, (0.8, 0.97), _city, stand="on"),
    "room": Place({
        "a cozy room": ((238, 212, 176), (176, 124, 84), (250, 246, 238), (160, 208, 240), (200, 96, 84)),
        "a blue room": ((160, 194, 222), (196, 160, 120), (250, 250, 250), (206, 234, 250), (84, 110, 170)),
        "a green room": ((178, 210, 176), (150, 112, 84), (246, 242, 226), (176, 214, 240), (232, 190, 100)),
    }, (0.8, 0.97), _room, over="in"),
    "snow": Place({
        "a snowy field": ((150, 196, 232), (226, 238, 248), (70, 112, 110), (212, 226, 240), (240, 246, 252)),
        "a snowy evening": ((88, 96, 156), (226, 178, 196), (58, 76, 104), (176, 184, 216), (214, 220, 240)),
    }, (0.76, 0.97), _snow),
    "desert": Place({
        "a golden desert": ((108, 186, 234), (244, 230, 200), (255, 244, 190), (226, 170, 104), (240, 200, 132)),
        "a red desert": ((242, 170, 120), (252, 220, 170), (255, 240, 200), (190, 90, 66), (216, 124, 84)),
    }, (0.78, 0.97), _desert),
    "forest": Place({
        "a green forest": ((196, 224, 170), (96, 142, 96), (110, 82, 62), (70, 132, 70), (134, 156, 88)),
        "an autumn forest": ((250, 226, 170), (200, 140, 90), (104, 72, 60), (220, 120, 50), (190, 140, 84)),
        "a dark blue forest": ((130, 170, 190), (50, 80, 110), (44, 56, 80), (40, 84, 96), (66, 96, 104)),
    }, (0.79, 0.97), _forest, cross="through", over="through"),
    "lake": Place({
        "a mountain lake": ((126, 190, 238), (220, 236, 244), (126, 140, 164), (86, 160, 200), (136, 174, 104)),
        "a calm lake at dawn": ((160, 150, 200), (252, 214, 190), (136, 116, 150), (180, 150, 184), (120, 124, 104)),
    }, (0.82, 0.97), _lake, stand="by", cross="beside"),
    "underwater": Place({
        "a clear blue lagoon": ((110, 214, 232), (28, 108, 176), (226, 210, 160), (60, 160, 110), (230, 252, 250)),
        "a deep green sea": ((80, 190, 170), (16, 84, 104), (150, 160, 130), (50, 120, 70), (200, 246, 220)),
    }, None, _underwater, cross="through"),
    "space": Place({
        "outer space": ((14, 14, 40), (70, 50, 130), (226, 150, 100), (246, 220, 180), (255, 255, 255)),
        "a green nebula": ((10, 24, 36), (40, 130, 110), (130, 170, 220), (220, 236, 250), (255, 250, 230)),
    }, None, _space, cross="through"),
    "sky": Place({
        "a bright cloudy sky": ((84, 164, 236), (196, 228, 248), (250, 252, 255), (255, 244, 190), (0, 0, 0)),
        "a pink evening sky": ((120, 110, 190), (250, 190, 180), (252, 226, 226), (255, 226, 170), (0, 0, 0)),
    }, None, _sky, cross="through"),
    "stage": Place({
        "a stage with a red curtain": ((196, 44, 52), (116, 20, 36), (176, 124, 80), (255, 240, 200), (0, 0, 0)),
        "a stage with a blue curtain": ((64, 96, 190), (28, 42, 110), (150, 116, 92), (240, 244, 255), (0, 0, 0)),
        "a stage with a green curtain": ((60, 150, 100), (24, 80, 60), (176, 136, 92), (250, 250, 220), (0, 0, 0)),
    }, (0.8, 0.97), _stage, stand="on", over="above"),
    "road": Place({
        "a country road": ((118, 188, 240), (220, 238, 246), (150, 190, 96), (120, 122, 132), (240, 236, 220)),
        "a dusty road at sundown": ((120, 100, 170), (252, 190, 130), (196, 160, 100), (108, 98, 110), (240, 220, 190)),
    }, (0.76, 0.97), _road, stand="on", cross="along"),
    "garden": Place({
        "a flower garden": ((140, 204, 246), (88, 150, 84), (250, 248, 240), (132, 192, 96), (240, 110, 150)),
        "an evening garden": ((170, 140, 190), (70, 104, 92), (226, 206, 200), (104, 140, 92), (250, 200, 110)),
    }, (0.77, 0.97), _garden),
}
