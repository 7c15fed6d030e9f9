"""Figures of subjects: measured while masks pass by, in any order, against what a look at all of them says."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alchemint.annotate.figures import Looks, figures_of, identities, sharpness, truncation
from alchemint.masks import box_of
from alchemint.records import Track

HEIGHT, WIDTH = 40, 60


def track_of(boxes: list[tuple[int, int, int, int] | None], scores: tuple[float, ...] = ()) -> Track:
    areas = tuple(0 if box is None else (box[2] - box[0]) * (box[3] - box[1]) for box in boxes)
    return Track(areas=areas, boxes=tuple(boxes), scores=scores or (1.0,) * len(boxes))


def look_at(areas: list[int], order: list[int], anchor: int = 0) -> Looks:
    """Let a subject pass by whose area is so many rows of ten pixels; frame n is all of colour n."""
    looks = Looks(len(areas), anchor)
    for number in order:
        mask = np.zeros((HEIGHT, WIDTH), bool)
        mask[:areas[number], 5:15] = True
        box = box_of(mask)
        if box is not None:
            looks.see(number, np.full((HEIGHT, WIDTH, 3), number, np.uint8), mask, box)
    return looks


class Colours:
    """Embeds a picture as an angle: as many degrees as its colour."""

    sharpness = 100.0

    def embed_pictures(self, pictures: list[np.ndarray]) -> np.ndarray:
        angles = np.radians([float(picture.mean()) for picture in pictures])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1)

    def embed_words(self, words: list[str]) -> np.ndarray:
        raise AssertionError("no word is asked for")


FORWARD = list(range(12))
BOTH_WAYS = [*range(5, 12), *range(4, -1, -1)]


@pytest.mark.parametrize("order", [FORWARD, FORWARD[::-1], BOTH_WAYS])
@pytest.mark.parametrize(("areas", "first", "last"), [
    ([20] * 12, 0, 11),
    ([0, 0, 20, 20, 20, 0, 0, 20, 20, 20, 0, 0], 2, 9),
])
def test_the_first_and_last_good_crops_are_kept_whatever_the_order(
    order: list[int], areas: list[int], first: int, last: int
) -> None:
    looks = look_at(areas, order, anchor=5)
    assert looks.first is not None and looks.last is not None
    assert (looks.first.frame, looks.last.frame) == (first, last)
    assert looks.first.box == (5, 0, 15, areas[first])
    assert looks.last.picture.shape == (areas[last], 10, 3)
    assert (looks.first.picture == first).all() and (looks.last.picture == last).all()


@pytest.mark.parametrize("order", [FORWARD, FORWARD[::-1], BOTH_WAYS])
def test_slivers_of_a_subject_that_comes_and_goes_are_let_go(order: list[int]) -> None:
    """At the latest a frame after, when most frames so far show more."""
    looks = look_at([1, 2, 20, 20, 20, 20, 20, 20, 20, 20, 2, 1], order, anchor=5)
    assert looks.first is not None and looks.last is not None
    assert looks.first.frame in (2, 3) and looks.last.frame in (8, 9)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=40), st.integers(0, 39))
@settings(max_examples=60, deadline=None)
def test_kept_crops_were_good_when_they_were_seen(areas: list[int], anchor: int) -> None:
    """Going forwards from the anchor, then backwards, as followers do."""
    anchor %= len(areas)
    order = [*range(anchor, len(areas)), *range(anchor - 1, -1, -1)]
    looks = look_at(areas, order, anchor)
    seen = [number for number in order if areas[number]]
    if not seen:
        assert looks.first is None and looks.last is None
        return
    for crop in (looks.first, looks.last):
        assert crop is not None and crop.area == 10 * areas[crop.frame]
        passed = sorted(10 * areas[number] for number in seen[:seen.index(crop.frame) + 1])
        assert crop.area >= passed[len(passed) // 2] / 2


def test_a_kept_crop_lets_its_frame_go() -> None:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[2:5, 3:9] = True
    looks = Looks(1, 0)
    looks.see(0, np.zeros((HEIGHT, WIDTH, 3), np.uint8), mask, (3, 2, 9, 5))
    assert looks.first is not None and looks.first.picture.base is None


def test_identity_is_the_likeness_of_the_first_and_the_last_crop() -> None:
    short, never, long = look_at([5, 5], [0, 1]), look_at([0], [0]), look_at([5] * 61, list(range(61)))
    told = identities([short, never, long], Colours())
    assert told[1] is None
    assert [told[0], told[2]] == pytest.approx([np.cos(np.radians(1)), 0.5])
    assert identities([short, long], None) == [None, None]
    assert identities([never], Colours()) == [None]


def test_sharpness_is_measured_on_the_subject_alone() -> None:
    generator = np.random.default_rng(0)
    sharp = generator.integers(0, 255, (60, 60, 3), np.uint8)
    mask = np.zeros((60, 60), bool)
    mask[:, :30] = True
    levels = [sharpness(cv2.GaussianBlur(sharp, (0, 0), sigma), mask) for sigma in (0.01, 1, 3)]
    assert levels[0] > 4 * levels[1] > 16 * levels[2]
    half = sharp.copy()
    half[:, :32] = 128
    assert sharpness(half, mask) == 0
    grey = cv2.cvtColor(sharp, cv2.COLOR_RGB2GRAY).astype(float)
    inner = [grey[y, x + 1] + grey[y, x - 1] + grey[y + 1, x] + grey[y - 1, x] - 4 * grey[y, x]
             for y in range(1, 59) for x in range(1, 59)]
    within = np.zeros((60, 60), bool)
    within[1:59, 1:59] = True
    assert sharpness(sharp, within) == pytest.approx(np.var(inner), rel=1e-5)


def test_of_few_frames_the_sharpest_counts() -> None:
    """Every frame of a short clip is measured, every n-th of a long one, and always the anchor."""
    picture = np.random.default_rng(0).integers(0, 255, (10, 10, 3), np.uint8)
    mask = np.ones((10, 10), bool)
    for num_frames, number, anchor, measured in ((20, 7, 0, True), (640, 40, 0, True), (640, 41, 0, False),
                                                 (640, 41, 41, True)):
        looks = Looks(num_frames, anchor)
        looks.see(number, picture, mask, (0, 0, 10, 10))
        looks.see(number + 20, np.zeros_like(picture), mask, (0, 0, 10, 10))
        expected = sharpness(picture, mask) if measured else None
        assert (looks.sharpness or None) == expected


def test_truncation_is_the_share_of_seen_frames_cut_by_the_border() -> None:
    boxes = [(0, 5, 9, 9), (1, 5, 9, 9), None, (5, 0, 9, 9), (5, 5, WIDTH, 9), (5, 5, 9, HEIGHT), (5, 5, 9, 9)]
    assert truncation(track_of(boxes), (WIDTH, HEIGHT)) == pytest.approx(4 / 6)
    assert truncation(track_of([None, None]), (WIDTH, HEIGHT)) is None


def test_figures_are_of_the_frames_in_which_it_is_seen_and_none_is_made_up() -> None:
    looks = look_at([5] * 4, [0, 1, 2, 3])
    track = track_of([(5, 1, 15, 5), None, (5, 1, 15, 5), None], (3.0, -9.0, 5.0, -9.0))
    figures = figures_of(track, looks, 0.75, (WIDTH, HEIGHT))
    assert figures == {"identity": 0.75, "sharpness": 0.0, "confidence": 4.0, "truncation": 0.0}
    assert figures_of(track_of([None]), look_at([0], [0]), None, (WIDTH, HEIGHT)) == {}
