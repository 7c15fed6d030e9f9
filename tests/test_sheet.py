"""Contact sheets and timeline charts: that bars lie where their seconds are, under the right frames."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageColor

from alchemint import sheet, timeline
from alchemint.storyboard import Defaults, Event, Storyboard, Subject

FPS, NUM_FRAMES = 8.0, 33
INTERVALS = {"fox": [(0.5, 3.0)], "balloon": [(0.0, 1.0), (2.0, 4.0)]}


def storyboard(events: Sequence[Event] = ()) -> Storyboard:
    picture = Image.new("RGBA", (20, 10), (0, 0, 0, 255))
    subjects = [Subject(name=name, word=name, images=[picture], appears=appears) for name, appears in INTERVALS.items()]
    board = Storyboard(prompt="A fox and a balloon.", subjects=subjects, events=events)
    return board.resolve(Defaults(FPS, 64, 64, NUM_FRAMES, 16))


def columns_of(page: Image.Image, colour: str) -> np.ndarray:
    """Return the columns of a page that have at least ten pixels of exactly this colour."""
    same = (np.asarray(page) == ImageColor.getrgb(colour)).all(-1)
    return np.flatnonzero(same.sum(0) >= 10)


def frame_columns(page: Image.Image, frames: np.ndarray) -> list[np.ndarray]:
    return [columns_of(page, f"rgb{tuple(int(channel) for channel in frame[0, 0])}") for frame in frames]


@pytest.fixture
def frames() -> np.ndarray:
    """Frames of one plain colour each, by which a sheet's tiles can be found again."""
    frames = np.zeros((NUM_FRAMES, 64, 64, 3), np.uint8)
    frames[..., 0] = np.arange(NUM_FRAMES)[:, None, None] * 7
    frames[..., 2] = 99
    return frames


def test_a_bar_lies_under_the_frames_that_its_subject_is_in(frames: np.ndarray) -> None:
    page = sheet.contact_sheet(frames, FPS, sheet.bars_of(storyboard()), "title", num_columns=9)
    shown = range(0, NUM_FRAMES, 4)
    tiles = dict(zip(shown, frame_columns(page, frames[::4]), strict=True))
    for number, intervals in enumerate(INTERVALS.values()):
        bar = set(columns_of(page, sheet.COLOURS[number]))
        for index, tile in tiles.items():
            assert len(tile) == 128
            centre = round(float(tile.mean()))
            seconds = index / FPS
            inside = any(start < seconds < end for start, end in intervals)
            outside = all(seconds < start or seconds > end for start, end in intervals)
            assert inside <= (centre in bar)
            assert outside <= (centre not in bar)


def test_a_sheet_needs_only_the_frames_that_it_shows(frames: np.ndarray) -> None:
    numbers = sheet.shown_frames(NUM_FRAMES)
    assert (numbers[0], numbers[-1], len(numbers)) == (0, NUM_FRAMES - 1, 9)
    stills = {number: frames[number] for number in numbers}
    bars = sheet.bars_of(storyboard())
    assert np.array_equal(np.asarray(sheet.sheet_of_stills(stills, FPS, bars, "title")),
                          np.asarray(sheet.contact_sheet(frames, FPS, bars, "title")))


@pytest.mark.parametrize(("num_columns", "expected"), [(1, 1), (9, 9), (40, NUM_FRAMES)])
def test_frames_are_chosen_evenly_from_first_to_last(frames: np.ndarray, num_columns: int, expected: int) -> None:
    page = sheet.contact_sheet(frames, FPS, num_columns=num_columns)
    shown = [index for index, columns in enumerate(frame_columns(page, frames)) if len(columns)]
    assert len(shown) == expected
    assert shown[0] == 0
    if expected > 1:
        assert shown[-1] == NUM_FRAMES - 1
        assert np.ptp(np.diff(shown)) <= 1


def test_small_frames_are_enlarged_by_a_whole_factor() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (1, 48, 40, 3), np.uint8)
    page = np.asarray(sheet.contact_sheet(frame, FPS))
    enlarged = frame[0].repeat(3, 0).repeat(3, 1)
    windows = np.lib.stride_tricks.sliding_window_view(page, enlarged.shape)[:, :, 0]
    assert any((windows[row, sheet.MARGIN] == enlarged).all() for row in range(len(windows)))


@pytest.mark.parametrize("size", [(480, 832), (832, 480), (64, 1024)])
def test_large_frames_are_shrunk(size: tuple[int, int]) -> None:
    page = sheet.contact_sheet(np.zeros((5, *size, 3), np.uint8), FPS)
    assert page.height < 300
    assert page.width < 5 * 230 + 60


def test_events_that_overlap_get_rows_of_their_own() -> None:
    events = [Event(during=during, text="x") for during in [(0, 2), (1, 3), (2, 4), (3, 4)]]
    rows = sheet.bars_of(storyboard(events))[len(INTERVALS):]
    assert [list(row.intervals) for row in rows] == [[(0, 2), (2, 4)], [(1, 3), (3, 4)]]


def test_a_chart_shows_intervals_in_proportion() -> None:
    page = sheet.timeline_chart(storyboard(), {})
    axis_left, axis_right = sheet.MARGIN + sheet.LABEL_WIDTH + 10, page.width - sheet.MARGIN - 10
    for number, intervals in enumerate(INTERVALS.values()):
        bar = columns_of(page, sheet.COLOURS[number])
        seconds = (bar - axis_left) / (axis_right - axis_left) * 4
        assert np.isclose(seconds.min(), intervals[0][0], atol=0.02)
        assert np.isclose(seconds.max(), intervals[-1][1], atol=0.02)


def test_a_curve_is_highest_where_its_values_are() -> None:
    num_latents = timeline.num_latents(NUM_FRAMES)
    curve = np.linspace(0.1, 1, num_latents)
    plain = sheet.timeline_chart(storyboard(), {})
    page = sheet.timeline_chart(storyboard(), {"fox": [curve]})
    assert page.height == plain.height + sheet.CURVE_HEIGHT
    top = sheet.MARGIN + 42 + sheet.ROW_HEIGHT
    drawn = (np.asarray(page) == ImageColor.getrgb(sheet.COLOURS[0])).all(-1)[top:top + sheet.CURVE_HEIGHT]
    heights = [np.flatnonzero(drawn[:, column])[0] for column in range(300, 1100, 100)]
    assert all(later < earlier for earlier, later in pairwise(heights))


def test_a_title_of_any_length_stays_on_the_page(frames: np.ndarray) -> None:
    long = sheet.contact_sheet(frames, FPS, title="word " * 500, subtitle="x" * 5000)
    assert long.height < 600
    border = np.asarray(long)[:, -sheet.MARGIN // 2:]
    assert (border == border[0, 0]).all()


def test_pictures_without_alpha_and_very_thin_ones_make_thumbnails(tmp_path: Path, frames: np.ndarray) -> None:
    thin = Image.new("RGBA", (400, 1), (255, 0, 0, 255))
    bars = [sheet.Bar("thin", [(0, 1)], thin), sheet.Bar("plain", [(0, 4)], Image.new("RGB", (3, 90)))]
    assert sheet.contact_sheet(frames, FPS, bars).height > sheet.contact_sheet(frames, FPS).height
