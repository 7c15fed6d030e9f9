"""Which reference is drawn: apart before outside before inside, and by area."""

from collections import Counter

import numpy as np
import pytest

from alchemint.data.references import Pick, cut_out, pick_reference
from alchemint.masks import track_of
from alchemint.records import ClipRecord, Entity, Reference, Track

AREAS = (0, 400, 100, 50, 300, 60, 0, 200, 600, 1)
WINDOW = (3, 6)


def record_of(references: tuple[Reference, ...], areas: tuple[int, ...] = AREAS) -> ClipRecord:
    track = Track(areas=areas, boxes=((0, 0, 9, 9),) * len(areas), masks=("",) * len(areas))
    entity = Entity(name="fox", word="fox", references=references, track=track)
    return ClipRecord(clip_id="a", source="test", video="a.mp4", fps=8, num_frames=len(areas), width=100, height=100,
                      caption="", entities=(entity,))


def drawn(record: ClipRecord, count: int = 400) -> Counter[Pick]:
    random = np.random.default_rng(0)
    return Counter(pick_reference(record, 0, WINDOW, 0.005, random) for _ in range(count))


def test_pictures_taken_apart_come_first_and_all_alike() -> None:
    picks = drawn(record_of((Reference(image="a.png"), Reference(image="b.png"), Reference(image="c.png", frame=0))))
    assert set(picks) == {Pick(0, image="a.png"), Pick(0, image="b.png")}
    assert min(picks.values()) > 150


def test_frames_outside_come_by_area() -> None:
    """More than 50 pixels count; frames 3 to 6 are the window."""
    picks = drawn(record_of((Reference(image="c.png", frame=0),)), 2600)
    assert set(picks) == {Pick(0, frame=frame) for frame in (1, 2, 7, 8)}
    for pick, count in picks.items():
        assert pick.frame is not None
        assert count / 2600 == pytest.approx(AREAS[pick.frame] / 1300, abs=0.04)


def test_pictures_of_other_frames_come_before_frames_of_the_window() -> None:
    areas = (0, 0, 9, 50, 300, 60, 0, 9, 9, 1)
    references = tuple(Reference(image=f"{frame}.png", frame=frame) for frame in (2, 4, 8))
    assert set(drawn(record_of(references, areas))) == {Pick(0, image="2.png"), Pick(0, image="8.png")}


def test_only_then_a_frame_of_the_window_is_taken_and_marked() -> None:
    areas = (0, 0, 9, 50, 300, 60, 0, 9, 9, 1)
    picks = drawn(record_of((Reference(image="4.png", frame=4),), areas))
    assert set(picks) == {Pick(0, frame=frame, inside=True) for frame in (3, 4, 5)}


def test_a_reference_of_a_frame_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="says that it shows frame 10, but the clip has 10"):
        drawn(record_of((Reference(image="a.png", frame=10),)))


def test_a_cut_out_is_the_frame_where_the_mask_is() -> None:
    random = np.random.default_rng(0)
    masks = random.random((3, 20, 30)) < 0.4
    frames = random.integers(0, 256, (3, 20, 30, 3), dtype=np.uint8)
    record = ClipRecord(clip_id="a", source="test", video="a.mp4", fps=8, num_frames=3, width=30, height=20, caption="",
                        entities=(Entity(name="a", word="a", references=(), track=track_of(masks)),))
    for number in range(3):
        picture = np.asarray(cut_out(record, 0, number, frames[number]))
        assert np.array_equal(picture[..., :3], frames[number])
        assert np.array_equal(picture[..., 3], np.where(masks[number], 255, 0))
