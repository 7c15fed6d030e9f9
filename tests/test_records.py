"""Clip records: what they must be, and what their tracks tell."""

from typing import Any

import pytest
from pydantic import ValidationError

from alchemint.records import ClipRecord, Entity, Reference, TimedCaption, Track


def new_record(**changes: Any) -> ClipRecord:
    track = Track(areas=(0, 5, 0, 7, 1), boxes=(None, (0, 0, 2, 3), None, (1, 1, 4, 4), (0, 0, 1, 1)),
                  masks=("d", "0", "d", "1Q", "`é"))
    values: dict[str, Any] = {
        "clip_id": "a-1", "source": "test", "video": "videos/a.mp4", "fps": 29.97, "num_frames": 5, "width": 8,
        "height": 6, "caption": 'A "fox" – or\ntwo – trot', "events": (TimedCaption(during=(0.0, 0.1), text="go"),),
        "entities": (Entity(name="fox", word="fox", references=(Reference(image="fox.png", frame=3),), track=track),)}
    return ClipRecord(**{**values, **changes})


@pytest.mark.parametrize(("part", "told"), [("areas", "one area and one box"), ("boxes", "one area and one box"),
                                            ("masks", "one mask and one score"), ("scores", "one mask and one score")])
def test_tracks_cover_every_frame(part: str, told: str) -> None:
    track = new_record().entities[0].track.model_copy(update={"scores": (0.5, 1.0, 0.5, 2.0, 0.0)})
    short = track.model_copy(update={part: getattr(track, part)[:-1]})
    entity = new_record().entities[0].model_copy(update={"track": short})
    with pytest.raises(ValidationError, match=f'clip a-1, entity "fox": the track must have {told} for each of the 5'):
        new_record(entities=(entity,))
    new_record(entities=(entity.model_copy(update={"track": track.model_copy(update={"masks": (), "scores": ()})}),))


def test_a_span_ignores_gaps_and_small_areas() -> None:
    track = new_record().entities[0].track
    assert track.present() == [False, True, False, True, True]
    assert track.span() == (1, 4)
    assert track.span(min_area=5) == (1, 3)
    assert track.span(min_area=8) is None


def test_runs_keep_gaps() -> None:
    assert new_record().entities[0].track.runs == [(1, 1), (3, 4)]
