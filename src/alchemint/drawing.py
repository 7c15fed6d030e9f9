"""Drawing on Pillow pages: fitted text, rounded bars, curves over an axis.

Pillow smooths text but no shapes, so shapes are drawn several times larger as masks and scaled down.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFont

Box = tuple[float, float, float, float]
Point = tuple[float, float]

PAPER, INK, FAINT_INK, RULE, TRACK, ZERO_LINE = "#FBFBF9", "#22252A", "#7A7F87", "#E3E4E2", "#EEEFEC", "#B9BCC0"
SMALL_SIZE = 13
_SMOOTHING = 4
_SPARE = 8
"""Pixels that a plot may draw beyond its own top and bottom."""


@dataclass(frozen=True)
class Axis:
    """Where seconds lie on the page: linear between the given ones."""

    seconds: tuple[float, ...]
    places: tuple[float, ...]

    def x(self, second: float) -> float:
        """Return the place of a moment; one beyond the ends lies at the end."""
        return float(np.interp(second, self.seconds, self.places))


def text_at(page: Image.Image, at: Point, text: str, size: int, colour: str, anchor: str) -> None:
    """Write one line of text; `anchor` is Pillow's, e.g. "mm" for its middle."""
    ImageDraw.Draw(page).text(at, text, fill=colour, font=_font(size), anchor=anchor)


def cut(text: str, size: int, width: float) -> str:
    """Return the text, or as much of it as fits into `width` pixels with an ellipsis."""
    if _font(size).getlength(text) <= width:
        return text
    fitting = bisect_right(range(len(text)), width, key=lambda length: _font(size).getlength(text[:length] + "…"))
    return text[:fitting - 1].rstrip() + "…" if fitting > 1 else ""


def wrapped(text: str, size: int, width: float, max_lines: int) -> list[str]:
    """Return the text in lines of at most `width` pixels; what goes beyond the last line is cut."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and _font(size).getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    if len(lines) > max_lines:
        lines = [*lines[:max_lines - 1], " ".join(lines[max_lines - 1:])]
    return [cut(line, size, width) for line in lines]


def guides(page: Image.Image, places: Iterable[float], top: int, bottom: int) -> None:
    """Draw faint vertical lines."""
    for place in places:
        ImageDraw.Draw(page).line((round(place), top, round(place), bottom), fill=RULE)


def rounded(page: Image.Image, box: Box, radius: float, colour: str) -> None:
    """Fill a box with rounded corners."""
    left, top, right, bottom = (round(side) for side in box)
    mask = rounded_mask((max(2, right - left), max(2, bottom - top)), radius)
    page.paste(colour, (left, top), mask)


def rounded_mask(size: tuple[int, int], radius: float) -> Image.Image:
    """Return the mask of a box with rounded corners."""
    large = Image.new("L", (size[0] * _SMOOTHING, size[1] * _SMOOTHING))
    box = (0, 0, large.width - 1, large.height - 1)
    ImageDraw.Draw(large).rounded_rectangle(box, min(radius, *(side / 2 for side in size)) * _SMOOTHING, fill=255)
    return large.resize(size, Image.Resampling.BOX)


@dataclass(frozen=True)
class Plot:
    """Where curves are drawn: over an axis, between two heights of the page, in the scale (least, most)."""

    axis: Axis
    top: int
    bottom: int
    scale: tuple[float, float]
    colour: str

    def draw(
        self, page: Image.Image, moments: Sequence[float], rows: Sequence[np.ndarray],
        intervals: Sequence[tuple[float, float]],
    ) -> None:
        """Draw the largest of the rows with the area under it, darker within the intervals; the single ones thinly.

        `moments` are the seconds of the values in each row.
        """
        line = self._points(moments, np.max(rows, axis=0))
        zero = self._y(0.0)
        area = [(line[0][0], zero), *line, (line[-1][0], zero)]
        inside = Image.new("L", page.size)
        for start, end in intervals:
            sides = (round(self.axis.x(start)), self.top - _SPARE, round(self.axis.x(end)), self.bottom + _SPARE)
            ImageDraw.Draw(inside).rectangle(sides, fill=255)
        self._fill(page, area, 0.12)
        self._fill(page, area, 0.25, inside)
        ImageDraw.Draw(page).line((self.axis.places[0], zero, self.axis.places[-1], zero), fill=ZERO_LINE)
        for row in rows if len(rows) > 1 else ():
            self._stroke(page, self._points(moments, row), 1, 0.55)
        self._stroke(page, line, 2, 1.0)
        self._dots(page, line)
        for value in (0.0, self.scale[1]):
            text_at(page, (line[0][0] - 10, self._y(value)), f"{value:.2g}", SMALL_SIZE, FAINT_INK, "rm")

    def _y(self, value: float) -> float:
        least, most = self.scale
        return self.bottom - (value - least) / (most - least) * (self.bottom - self.top)

    def _points(self, moments: Sequence[float], values: np.ndarray) -> list[Point]:
        return [(self.axis.x(moment), self._y(value)) for moment, value in zip(moments, values, strict=True)]

    def _fill(
        self, page: Image.Image, points: Sequence[Point], opacity: float, within: Image.Image | None = None
    ) -> None:
        mask = self._mask(page)
        ImageDraw.Draw(mask).polygon(_enlarged(points, self.top), fill=round(255 * opacity))
        self._paste(page, mask, within)

    def _stroke(self, page: Image.Image, points: Sequence[Point], width: int, opacity: float) -> None:
        mask = self._mask(page)
        colour = round(255 * opacity)
        ImageDraw.Draw(mask).line(_enlarged(points, self.top), fill=colour, width=width * _SMOOTHING, joint="curve")
        self._paste(page, mask)

    def _dots(self, page: Image.Image, points: Sequence[Point]) -> None:
        mask = self._mask(page)
        for point in _enlarged(points, self.top):
            ImageDraw.Draw(mask).circle(point, 3 * _SMOOTHING, fill=255)
        self._paste(page, mask)

    def _mask(self, page: Image.Image) -> Image.Image:
        return Image.new("L", (page.width * _SMOOTHING, (self.bottom - self.top + 2 * _SPARE) * _SMOOTHING))

    def _paste(self, page: Image.Image, mask: Image.Image, within: Image.Image | None = None) -> None:
        mask = mask.resize((page.width, mask.height // _SMOOTHING), Image.Resampling.BOX)
        if within is not None:
            mask = ImageChops.multiply(mask, within.crop((0, self.top - _SPARE, page.width, self.bottom + _SPARE)))
        page.paste(self.colour, (0, self.top - _SPARE), mask)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _enlarged(points: Sequence[Point], top: int) -> list[Point]:
    return [(x * _SMOOTHING, (y - top + _SPARE) * _SMOOTHING) for x, y in points]
