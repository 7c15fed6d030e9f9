"""Pictures for people: a contact sheet of a video with a bar for each subject, and a chart of a storyboard's timeline.

Both share one look: a column of labels at the left, an axis of seconds at the right, one row for each subject. On a
contact sheet the axis is that of the frames above: where a bar lies under a frame, the subject is to be in it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from alchemint import timeline
from alchemint.drawing import (
    FAINT_INK,
    INK,
    PAPER,
    SMALL_SIZE,
    TRACK,
    Axis,
    Plot,
    cut,
    guides,
    rounded,
    rounded_mask,
    text_at,
    wrapped,
)
from alchemint.media import open_image
from alchemint.storyboard import Event, Storyboard

EVENT_COLOUR = "#6B7280"
COLOURS = (
    "#2F6DB5", "#D9692A", "#2E8B57", "#B03A7E", "#7A5CC0", "#B98A12", "#26919A", "#A8403F",
    "#5C8AD6", "#E39A5F", "#69A97F", "#CC7AAE", "#A38FDA", "#8C7A3A", "#5FA9AE", "#7A5A4A",
)
"""One for each subject; white text is legible on all of them."""

MARGIN, GAP, LABEL_WIDTH, ROW_HEIGHT, BAR_HEIGHT, THUMBNAIL, CURVE_HEIGHT = 28, 6, 184, 60, 26, 48, 96
LEAST_WIDTH = 480
TITLE_SIZE, LABEL_SIZE = 19, 15
TILE_HEIGHT, MOST_TILE_WIDTH = 144, 208


@dataclass(frozen=True)
class Bar:
    """A row: its label, the intervals [start, end) in seconds, a thumbnail, and a text within each bar.

    Without `captions` a bar says its seconds. Without `colour` a row takes the next of COLOURS.
    """

    label: str
    intervals: Sequence[tuple[float, float]]
    thumbnail: Image.Image | None = None
    captions: Sequence[str] = ()
    colour: str | None = None


def bars_of(storyboard: Storyboard) -> list[Bar]:
    """Return a row for each subject with its first picture, then as many rows of events as their overlaps need."""
    rows = [Bar(subject.name, subject.appears, open_image(subject.images[0])) for subject in storyboard.subjects]
    for number, lane in enumerate(_lanes(storyboard.events)):
        label = "" if number else "events"
        rows.append(Bar(label, [event.during for event in lane], None, [event.text for event in lane], EVENT_COLOUR))
    return rows


def contact_sheet(
    frames: np.ndarray, fps: float, bars: Sequence[Bar] = (), title: str = "", subtitle: str = "", num_columns: int = 9
) -> Image.Image:
    """Return a strip of frames with their times, and under it the bars on the same axis.

    `frames` is (frames, height, width, 3) uint8, of which those of `shown_frames` are shown.
    """
    stills = {number: frames[number] for number in shown_frames(len(frames), num_columns)}
    return sheet_of_stills(stills, fps, bars, title, subtitle)


def shown_frames(num_frames: int, num_columns: int = 9) -> list[int]:
    """Return the frames of a video that a sheet shows, evenly chosen, the first and the last among them."""
    places = np.linspace(0, num_frames - 1, min(num_columns, num_frames)).round()
    return [int(place) for place in np.unique(places)]


def sheet_of_stills(
    stills: Mapping[int, np.ndarray], fps: float, bars: Sequence[Bar] = (), title: str = "", subtitle: str = ""
) -> Image.Image:
    """Return the contact sheet of a video of which only `stills` are at hand: frames (height, width, 3) by number.

    Small ones are enlarged by a whole factor so that their pixels stay sharp.
    """
    shown = np.array(list(stills))
    height, width = stills[shown[0]].shape[:2]
    tile_width, tile_height = _tile_size(width, height)
    label_width = LABEL_WIDTH if bars else 0
    strip_width = label_width + len(shown) * (tile_width + GAP) - GAP
    head = _Head(title, subtitle, max(strip_width, LEAST_WIDTH))
    top = MARGIN + head.height
    rows_top = top + tile_height + 38
    page = Image.new("RGB", (head.width + 2 * MARGIN, rows_top + len(bars) * ROW_HEIGHT + MARGIN // 2), PAPER)
    head.draw(page)

    centres = MARGIN + label_width + np.arange(len(shown)) * (tile_width + GAP) + tile_width / 2
    axis = Axis(tuple(shown / fps), tuple(centres))
    if bars:
        guides(page, centres, top + tile_height, top + tile_height + 7)
        guides(page, centres, rows_top, rows_top + len(bars) * ROW_HEIGHT)
    resampling = Image.Resampling.NEAREST if tile_width >= width else Image.Resampling.LANCZOS
    for index, centre in zip(shown, centres, strict=True):
        picture = Image.fromarray(stills[index]).resize((tile_width, tile_height), resampling)
        page.paste(picture, (round(centre - tile_width / 2), top))
        text_at(page, (centre, top + tile_height + 19), f"{index / fps:.2f} s", SMALL_SIZE, FAINT_INK, "mm")
    for number, bar in enumerate(bars):
        middle = rows_top + number * ROW_HEIGHT + ROW_HEIGHT // 2
        _draw_label(page, middle, bar)
        _draw_bars(page, middle, bar, axis, _colour(bar, number), tile_width / 2)
    return page


def stacked(sheets: Sequence[Image.Image]) -> Image.Image:
    """Return sheets one under another."""
    page = Image.new("RGB", (max(sheet.width for sheet in sheets), sum(sheet.height for sheet in sheets)), PAPER)
    top = 0
    for sheet in sheets:
        page.paste(sheet, (0, top))
        top += sheet.height
    return page


def timeline_chart(
    storyboard: Storyboard, curves: Mapping[str, Sequence[np.ndarray]], subtitle: str = "", width: int = 1280
) -> Image.Image:
    """Return a chart of a resolved storyboard: its intervals and events in seconds, and the subjects' curves K(t).

    `curves` gives by subject name one array (latents,) for each of its intervals: the proxy of attention to the
    subject's reference at each latent frame (see model/encodings.py). The largest of them is drawn strongest. All share
    one scale.
    """
    fps, num_frames = storyboard.fps, storyboard.num_frames
    assert fps is not None, "resolve the storyboard first"
    assert num_frames is not None, "resolve the storyboard first"
    bars = bars_of(storyboard)
    rows = [curves.get(subject.name, ()) for subject in storyboard.subjects]
    rows += [()] * (len(bars) - len(rows))
    heights = [ROW_HEIGHT + (CURVE_HEIGHT if row else 0) for row in rows]
    head = _Head(storyboard.prompt, subtitle, width - 2 * MARGIN)
    top = MARGIN + head.height
    bottom = top + sum(heights)
    page = Image.new("RGB", (width, bottom + 34 + MARGIN // 2), PAPER)
    head.draw(page)

    end_s = max(timeline.duration_s(num_frames, fps), 1 / fps)
    axis = Axis((0.0, end_s), (MARGIN + LABEL_WIDTH + 10, width - MARGIN - 10))
    guides(page, map(axis.x, _ticks(end_s)), top, bottom + 6)
    for tick in _ticks(end_s):
        text_at(page, (axis.x(tick), bottom + 18), f"{tick:g} s", SMALL_SIZE, FAINT_INK, "mm")
    values = [value for row in rows for curve in row for value in curve]
    scale = (min([0.0, *values]), max([1e-9, *values]))
    moments = [sum(timeline.frames_of_latent(latent)) / 2 / fps for latent in range(timeline.num_latents(num_frames))]
    for number, (bar, height) in enumerate(zip(bars, heights, strict=True)):
        _draw_label(page, top + ROW_HEIGHT // 2, bar)
        _draw_bars(page, top + ROW_HEIGHT // 2, bar, axis, _colour(bar, number), 8)
        if rows[number]:
            plot = Plot(axis, top + ROW_HEIGHT - 6, top + height - 14, scale, _colour(bar, number))
            plot.draw(page, moments, rows[number], bar.intervals)
        top += height
    return page


class _Head:
    """Title and subtitle, the title on at most three lines."""

    def __init__(self, title: str, subtitle: str, width: int) -> None:
        self.width = width
        self.lines = [(line, TITLE_SIZE, INK) for line in wrapped(title, TITLE_SIZE, width, 3)]
        self.lines += [(line, SMALL_SIZE, FAINT_INK) for line in wrapped(subtitle, SMALL_SIZE, width, 2)]
        self.height = sum(round(1.45 * size) for _, size, _ in self.lines) + (14 if self.lines else 0)

    def draw(self, page: Image.Image) -> None:
        top = MARGIN
        for line, size, colour in self.lines:
            text_at(page, (MARGIN, top), line, size, colour, "la")
            top += round(1.45 * size)


def _tile_size(width: int, height: int) -> tuple[int, int]:
    scale = min(TILE_HEIGHT / height, MOST_TILE_WIDTH / width)
    factor = max(1, round(scale)) if scale >= 1 else scale
    return round(width * factor), round(height * factor)


def _colour(bar: Bar, number: int) -> str:
    return bar.colour or COLOURS[number % len(COLOURS)]


def _lanes(events: Iterable[Event]) -> list[list[Event]]:
    """Return the events in as few rows as keep those of one row apart."""
    lanes: list[list[Event]] = []
    for event in sorted(events, key=lambda event: event.during):
        free = next((lane for lane in lanes if lane[-1].during[1] <= event.during[0]), None)
        if free is None:
            lanes.append([event])
        else:
            free.append(event)
    return lanes


def _ticks(end_s: float) -> list[float]:
    """Return at most thirteen round seconds from 0 to the end."""
    steps = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 300, 600)
    step = next(step for step in steps if end_s / step <= 12)
    return [number * step for number in range(int(end_s / step + 1e-6) + 1)]


def _draw_label(page: Image.Image, middle: int, bar: Bar) -> None:
    left = MARGIN
    if bar.thumbnail is not None:
        card = Image.new("RGB", (THUMBNAIL, THUMBNAIL), TRACK)
        picture = bar.thumbnail.convert("RGBA")
        picture = picture.crop(picture.getchannel("A").getbbox())
        side = THUMBNAIL if bar.thumbnail.mode == "RGB" else THUMBNAIL - 6
        scale = side / max(picture.size)
        size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
        picture = picture.resize(size, Image.Resampling.BICUBIC)
        card.paste(picture, ((THUMBNAIL - picture.width) // 2, (THUMBNAIL - picture.height) // 2), picture)
        page.paste(card, (left, middle - THUMBNAIL // 2), rounded_mask(card.size, 7))
        left += THUMBNAIL + 12
    text = cut(bar.label, LABEL_SIZE, MARGIN + LABEL_WIDTH - 14 - left)
    text_at(page, (left, middle), text, LABEL_SIZE, INK, "lm")


def _draw_bars(page: Image.Image, middle: int, bar: Bar, axis: Axis, colour: str, overhang: float) -> None:
    """Draw the track of a row, `overhang` pixels longer than the axis on both sides, and its bars."""
    rounded(page, (axis.places[0] - overhang, middle - 3, axis.places[-1] + overhang, middle + 3), 3, TRACK)
    for number, interval in enumerate(bar.intervals):
        start, end = axis.x(interval[0]), axis.x(interval[1])
        rounded(page, (start, middle - BAR_HEIGHT // 2, max(end, start + 4), middle + BAR_HEIGHT // 2), 6, colour)
        text = bar.captions[number] if bar.captions else f"{round(interval[0], 2):g} to {round(interval[1], 2):g} s"
        fitting = cut(text, SMALL_SIZE, end - start - 14)
        if fitting == text or (bar.captions and len(fitting) > 3):
            text_at(page, ((start + end) / 2, middle), fitting, SMALL_SIZE, "white", "mm")
