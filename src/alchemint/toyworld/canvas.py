"""A canvas on which backgrounds are painted: smooth, antialiased shapes at any resolution.

Coordinates are in frame heights: y runs from 0 (top) to 1 (bottom), x from 0 at the frame's left edge; a canvas may be
wider than the frame on both sides, to leave room for a moving camera.
"""

import numpy as np

Colour = tuple[float, float, float] | np.ndarray


class Canvas:
    """Pixels float32 (height, width, 3) in 0..255, and the coordinates `x` (width,) and `y` (height, 1) of each."""

    def __init__(self, width: int, height: int, margin: int) -> None:
        """Begin a black canvas for a frame of `width` x `height` pixels with `margin` more on the left and right."""
        self.pixel = 1 / height
        self.x = ((np.arange(width + 2 * margin) - margin + 0.5) / height).astype(np.float32)
        self.y = ((np.arange(height) + 0.5) / height).astype(np.float32)[:, None]
        self.pixels = np.zeros((height, width + 2 * margin, 3), np.float32)
        self.right = width / height

    def gradient(self, top: Colour, bottom: Colour, start: float = 0.0, end: float = 1.0) -> None:
        """Fill the whole canvas, from `top` above y = start to `bottom` below y = end."""
        share = ((self.y - start) / (end - start)).clip(0, 1)[..., None]
        self.pixels[:] = np.asarray(top, np.float32) * (1 - share) + np.asarray(bottom, np.float32) * share

    def below(self, line: np.ndarray | float, colour: Colour, deeper: Colour | None = None) -> None:
        """Fill what is under the line y = line(x), from `colour` at the line to `deeper` at the bottom."""
        line = np.asarray(line, np.float32)
        cover = self._edge(self.y - line)
        paint = np.asarray(colour, np.float32)
        if deeper is not None:
            share = ((self.y - line.min()) / max(1 - float(line.min()), 1e-3)).clip(0, 1)[..., None]
            paint = paint * (1 - share) + np.asarray(deeper, np.float32) * share
        self._blend(self.pixels, paint, np.broadcast_to(cover, self.pixels.shape[:2]))

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour, opacity: float = 1.0) -> None:
        """Fill a rectangle."""
        rows, columns = self._window(left, top, right, bottom)
        x, y = self.x[columns], self.y[rows]
        cover = self._edge(np.minimum(x - left, right - x)) * self._edge(np.minimum(y - top, bottom - y))
        self._blend(self.pixels[rows, columns], colour, cover * np.float32(opacity))

    def disc(self, x: float, y: float, radius: float, colour: Colour, *, flat: float = 1.0, soft: float = 0.0,
             opacity: float = 1.0) -> None:
        """Fill an ellipse `radius` wide and `flat` times as high, its edge blurred over `soft`."""
        rows, columns = self._window(x - radius - soft, y - radius * flat - soft, x + radius + soft,
                                     y + radius * flat + soft)
        away = radius - np.hypot(self.x[columns] - x, (self.y[rows] - y) / flat)
        cover = self._edge(away) if soft == 0 else (away / soft + 0.5).clip(0, 1)
        self._blend(self.pixels[rows, columns], colour, cover * np.float32(opacity))

    def triangle(self, x: float, top: float, bottom: float, half_width: float, colour: Colour) -> None:
        """Fill a triangle that stands on y = bottom, symmetric about x."""
        rows, columns = self._window(x - half_width, top, x + half_width, bottom)
        slope = half_width / (bottom - top)
        inside = np.minimum((self.y[rows] - top) * slope - np.abs(self.x[columns] - x), bottom - self.y[rows])
        self._blend(self.pixels[rows, columns], colour, self._edge(inside))

    def image(self) -> np.ndarray:
        """Return the picture, uint8 (height, width, 3)."""
        return (self.pixels + 0.5).clip(0, 255).astype(np.uint8)

    def _edge(self, distance: np.ndarray) -> np.ndarray:
        return (distance / np.float32(self.pixel) + np.float32(0.5)).clip(0, 1)

    def _window(self, left: float, top: float, right: float, bottom: float) -> tuple[slice, slice]:
        first_x = float(self.x[0])
        columns = slice(max(0, int((left - first_x) / self.pixel) - 1),
                        max(0, int((right - first_x) / self.pixel) + 3))
        return slice(max(0, int(top / self.pixel) - 2), max(0, int(bottom / self.pixel) + 2)), columns

    @staticmethod
    def _blend(region: np.ndarray, colour: Colour, cover: np.ndarray) -> None:
        region += cover[..., None] * (np.asarray(colour, np.float32) - region)
