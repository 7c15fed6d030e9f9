"""Plans against loops over windows and frames."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alchemint.data.clip_plans import Bucket, ClipPlan, SampleOptions, plan_clip
from alchemint.record_files import Place, read_records
from alchemint.records import ClipRecord, Entity, Track


def record_of(areas: list[list[int]], fps: float = 8.0, size: tuple[int, int] = (100, 50)) -> ClipRecord:
    """A clip whose entities have these areas, frame by frame, in boxes at the left edge."""
    entities = tuple(Entity(name=str(number), word=str(number), references=(), track=Track(
        areas=tuple(row), boxes=tuple((0, 0, 10, 10) if area else None for area in row), masks=("",) * len(row)))
        for number, row in enumerate(areas))
    return ClipRecord(clip_id="a", source="test", video="a.mp4", fps=fps, num_frames=len(areas[0]), width=size[0],
                      height=size[1], caption="", entities=entities)


OPTIONS = SampleOptions(sizes=((64, 32), (32, 32)), num_frames=(5, 9), fps=8.0, max_subjects=3, min_area=0.004)
PLACE = Place("clips.parquet", 7, "clip")


@pytest.mark.parametrize("clip_fps", [8.0, 12.0, 20.0])
@pytest.mark.parametrize("max_subjects", [0, 1, 2, 4])
def test_starts_against_a_loop(clip_fps: float, max_subjects: int) -> None:
    random = np.random.default_rng(int(clip_fps) + max_subjects)
    options = replace(OPTIONS, max_subjects=max_subjects)
    for _ in range(20):
        # 20 of 5000 pixels are just not more than 0.4 %.
        areas = random.choice([0, 5, 20, 21, 90], p=[0.7, 0.1, 0.1, 0.05, 0.05], size=(4, 30)).tolist()
        plan = plan_clip(record_of(areas, clip_fps), PLACE, options)
        assert isinstance(plan, ClipPlan)
        length = plan.bucket.num_frames
        steps = [int(frame * clip_fps / 8 + 0.5) for frame in range(length)]
        counts = {}
        for start in range(30):
            if start + steps[-1] < 30:
                shown = [any(row[start + step] > 20 for step in steps) for row in areas]
                counts[start] = min(sum(shown), max_subjects)
        assert plan.bucket == Bucket(length, 32, 64, max(counts.values()))
        assert plan.starts.tolist() == [start for start, count in counts.items() if count == max(counts.values())]
        assert plan.place == PLACE
        assert length == (9 if int(8 * clip_fps / 8 + 0.5) < 30 else 5)


def test_only_what_the_crop_shows_counts() -> None:
    """The square crop of 100 x 50 begins at 25, right of all boxes."""
    square = plan_clip(record_of([[90] * 30]), PLACE, replace(OPTIONS, sizes=((32, 32),)))
    whole = plan_clip(record_of([[90] * 30]), PLACE, OPTIONS)
    assert isinstance(square, ClipPlan) and isinstance(whole, ClipPlan)
    assert (square.bucket.num_subjects, whole.bucket.num_subjects) == (0, 1)


@pytest.mark.parametrize(("num_frames", "fps", "reason"), [
    (4, 8.0, "is shorter than 5 frames at 8 frames a second"), (9, 24.0, "is shorter than 5 frames"),
    (30, 7.0, "has less than 8 frames a second")])
def test_clips_that_do_not_fit_say_why(num_frames: int, fps: float, reason: str) -> None:
    plan = plan_clip(record_of([[0] * num_frames], fps), PLACE, OPTIONS)
    assert isinstance(plan, str)
    assert reason in plan


def test_a_frame_rate_a_little_below_is_let_pass() -> None:
    assert isinstance(plan_clip(record_of([[0] * 30], 7.992), PLACE, OPTIONS), ClipPlan)


def test_a_clip_without_subjects_has_a_plan(world: Path, options: SampleOptions) -> None:
    record = next(read_records(world))
    assert not record.entities
    plan = plan_clip(record, PLACE, options)
    assert isinstance(plan, ClipPlan)
    assert plan.bucket == Bucket(17, 32, 32, 0)
    assert plan.starts.tolist() == list(range(9))


@pytest.mark.parametrize(("change", "message"), [
    ({"sizes": ()}, "each name at least one"), ({"num_frames": ()}, "each name at least one"),
    ({"sizes": ((64, 36),)}, "size 64 x 36: both sides must be multiples of 8"),
    ({"num_frames": (9, 12)}, "num_frames 12: the count must be 4k.1; use 9 or 13"),
    ({"fps": 0.0}, "fps 0 must be above 0"), ({"max_subjects": -1}, "max_subjects -1"),
    ({"min_area": 1.0}, "min_area 1"), ({"canvas_share": 0.0}, "canvas_share 0"),
    ({"event_share": 1.5}, "event_share 1.5")])
def test_options_out_of_range_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(OPTIONS, **change)
