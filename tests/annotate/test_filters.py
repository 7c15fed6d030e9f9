"""Filters: what goes, why, and what is left of a track."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alchemint.annotate import filters
from alchemint.annotate.clip import Clip, Followed, Found, Source
from alchemint.annotate.recipe import Filters
from alchemint.masks import box_of, decoded_mask, mask_text
from alchemint.media import VideoFacts
from alchemint.perception.sightings import Box
from alchemint.records import Track

HEIGHT, WIDTH, FPS = 20, 30, 10.0
LENIENT = Filters(min_area=None, min_seen_s=None, max_truncation=None, max_overlap=None, min_identity=None)


def track_of(masks: np.ndarray) -> Track:
    return Track(areas=tuple(int(mask.sum()) for mask in masks), boxes=tuple(box_of(mask) for mask in masks),
                 masks=tuple(mask_text(mask) for mask in masks), scores=(1.0,) * len(masks))


def square(frames: list[int], side: int = 8, left: int = 5, num_frames: int = 12) -> np.ndarray:
    masks = np.zeros((num_frames, HEIGHT, WIDTH), bool)
    masks[frames, 4:4 + side, left:left + side] = True
    return masks


def subject(word: str, masks: np.ndarray, likeness: float = 0.3, **figures: float) -> Followed:
    return Followed(Found(word, Box(0, (0, 0, 1, 1), 0.5), likeness), track_of(masks), figures)


def clip_of(*followed: Followed) -> Clip:
    facts = VideoFacts(FPS, 12, WIDTH, HEIGHT)
    return Clip("a", Source("a.mp4", "a.mp4"), facts, 0, 12, followed=followed)


def judged(*followed: Followed, **options: float) -> tuple[list[str], list[tuple]]:
    clip = filters.judge(clip_of(*followed), LENIENT.model_copy(update=options))
    return ([one.found.word for one in clip.followed],
            [(gone.word, gone.filter, gone.value, gone.threshold) for gone in clip.dropped])


def test_without_thresholds_whoever_is_seen_stays() -> None:
    fox = subject("fox", square([3]), identity=-1, truncation=1, sharpness=0, confidence=-9)
    assert judged(fox, subject("dog", square([3]))) == (["fox", "dog"], [])


def test_nobody_is_kept_who_is_never_seen() -> None:
    assert judged(subject("fox", square([]))) == ([], [("fox", "seen", 0.0, 0.0)])


@pytest.mark.parametrize(("figure", "option", "bad", "good"), [
    ("truncation", "max_truncation", 0.6, 0.5), ("sharpness", "min_sharpness", 9.0, 10.0),
    ("confidence", "min_confidence", 0.9, 1.0), ("identity", "min_identity", 0.4, 0.5),
])
def test_a_figure_beyond_its_threshold_drops(figure: str, option: str, bad: float, good: float) -> None:
    fine, poor = subject("fox", square([1]), **{figure: good}), subject("dog", square([1]), **{figure: bad})
    unmeasured = subject("owl", square([1]))
    assert judged(fine, poor, unmeasured, **{option: good}) == (
        ["fox", "owl"], [("dog", figure, bad, good)])


def test_seconds_seen_are_counted_together() -> None:
    fox, dog = subject("fox", square([0, 1, 5, 9])), subject("dog", square([0, 1, 2]))
    assert judged(fox, dog, min_seen_s=0.4) == (["fox"], [("dog", "seen", 0.3, 0.4)])


def test_frames_with_slivers_are_emptied() -> None:
    masks = square([2, 3, 4])
    masks[5, :2, :2] = True
    fox = subject("fox", masks)
    kept = filters.judge(clip_of(fox), LENIENT.model_copy(update={"min_area": 5 / (WIDTH * HEIGHT)})).followed[0]
    assert kept.track.runs == [(2, 4)]
    assert kept.track.areas[5] == 0 and kept.track.boxes[5] is None
    assert not decoded_mask(kept.track.masks[5], (WIDTH, HEIGHT)).any()
    assert np.array_equal(decoded_mask(kept.track.masks[3], (WIDTH, HEIGHT)), masks[3])
    assert kept.track.scores == fox.track.scores


def test_figures_are_of_the_frames_that_are_left() -> None:
    """A sliver at the border for most of the time does not make a subject truncated, nor an unsure one."""
    masks = square([0, 1, 2])
    masks[3:, :2, :2] = True
    track = track_of(masks)
    fox = replace(subject("fox", masks, truncation=0.75, confidence=0.25, sharpness=3.0),
                  track=track.model_copy(update={"scores": (1.0,) * 3 + (0.0,) * 9}))
    strict = {"min_area": 5 / (WIDTH * HEIGHT), "max_truncation": 0.5, "min_confidence": 0.9}
    options = LENIENT.model_copy(update=strict)
    [kept] = filters.judge(clip_of(fox), options).followed
    assert kept.figures == {"truncation": 0.0, "confidence": 1.0, "sharpness": 3.0}


def test_of_doubles_the_surer_stays() -> None:
    fox, wolf = subject("fox", square([1, 2, 3]), likeness=0.2), subject("wolf", square([1, 2, 3]), likeness=0.4)
    aside = subject("owl", square([1, 2, 3], left=20), likeness=0.1)
    assert judged(fox, wolf, aside, max_overlap=0.7) == (["wolf", "owl"], [("fox", "overlap", 1.0, 0.7)])


def test_a_double_of_one_that_went_stays() -> None:
    """a is b's double and b is c's, but a is not c's: without b, c may stay."""
    a, b, c = (subject(word, square([0, 1], left=left), likeness=likeness)
               for word, left, likeness in (("a", 4, 0.9), ("b", 6, 0.5), ("c", 8, 0.3)))
    assert judged(a, b, c, max_overlap=0.5)[0] == ["a", "c"]


def test_a_filter_sees_the_cleaned_track() -> None:
    fox = subject("fox", square([1, 2], side=2))
    assert judged(fox, min_area=0.1)[1] == [("fox", "seen", 0.0, 0.0)]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_iou_is_that_of_the_pixels(seed: int) -> None:
    random = np.random.default_rng(seed)
    one, other = random.random((2, 12, HEIGHT, WIDTH)) < random.choice([0.0, 0.2, 0.7], (2, 12, 1, 1))
    either = (one | other).sum()
    expected = (one & other).sum() / either if either else 0.0
    clip = clip_of()
    assert filters.masks_iou(track_of(one), track_of(other), clip) == pytest.approx(expected)


def test_earlier_drops_are_kept() -> None:
    clip = filters.judge(clip_of(subject("fox", square([]))), LENIENT)
    again = filters.judge(replace(clip, followed=(subject("dog", square([])),)), LENIENT)
    assert [gone.word for gone in again.dropped] == ["fox", "dog"]
