"""Clip records: there and back, and what does not fit is named."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from alchemint.records import (
    ClipRecord,
    Entity,
    Reference,
    TimedCaption,
    Track,
    read_placed_records,
    read_record,
    read_records,
    write_records,
)


def new_record(**changes: Any) -> ClipRecord:
    track = Track(areas=(0, 5, 0, 7, 1), boxes=(None, (0, 0, 2, 3), None, (1, 1, 4, 4), (0, 0, 1, 1)),
                  masks=("d", "0", "d", "1Q", "`é"))
    values: dict[str, Any] = {
        "clip_id": "a-1", "source": "test", "video": "videos/a.mp4", "fps": 29.97, "num_frames": 5, "width": 8,
        "height": 6, "caption": 'A "fox" – or\ntwo – trot', "events": (TimedCaption(during=(0.0, 0.1), text="go"),),
        "entities": (Entity(name="fox", word="fox", references=(Reference(image="fox.png", frame=3),), track=track),)}
    return ClipRecord(**{**values, **changes})


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    records = [new_record(), new_record(clip_id="a-2", entities=(), events=())]
    path = write_records(tmp_path, iter(records))
    assert len(path.read_text(encoding="utf-8").splitlines()) == 2
    assert list(read_records(tmp_path)) == records
    assert list(tmp_path.iterdir()) == [path]


def test_a_record_is_found_again_by_its_place(tmp_path: Path) -> None:
    records = [new_record(clip_id=f"clip {number}", caption="é" * number) for number in range(4)]
    write_records(tmp_path, records)
    placed = list(read_placed_records(tmp_path))
    assert [record for _, record in placed] == records
    for place, record in reversed(placed):
        assert read_record(tmp_path, place) == record
    with pytest.raises(ValueError, match=r"records\.jsonl: no valid clip record at byte 3; the file has changed"):
        read_record(tmp_path, 3)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    write_records(tmp_path, [new_record()])

    def failing() -> Iterator[ClipRecord]:
        yield new_record(clip_id="other")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_records(tmp_path, failing())
    assert list(read_records(tmp_path)) == [new_record()]


@pytest.mark.parametrize("line", ["{", "[]", '{"clip_id": "x"}', new_record().model_dump_json()[:-1] + ', "colour": 1}',
                                  new_record().model_dump_json().replace('"schema_version":1', '"schema_version":2')])
def test_a_line_that_does_not_fit_is_named(tmp_path: Path, line: str) -> None:
    path = write_records(tmp_path, [new_record(), new_record()])
    path.write_text(path.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    rows = read_records(tmp_path)
    assert [next(rows), next(rows)] == [new_record(), new_record()]
    with pytest.raises(ValueError, match=r"records\.jsonl, line 3: not a valid clip record"):
        next(rows)


@pytest.mark.parametrize("part", ["areas", "boxes", "masks"])
def test_tracks_cover_every_frame(part: str) -> None:
    track = new_record().entities[0].track
    short = track.model_copy(update={part: getattr(track, part)[:-1]})
    entity = new_record().entities[0].model_copy(update={"track": short})
    with pytest.raises(ValidationError, match='clip a-1, entity "fox": the track must have one area, box and mask for '
                                              "each of the 5 frames"):
        new_record(entities=(entity,))


def test_a_span_ignores_gaps_and_small_areas() -> None:
    track = new_record().entities[0].track
    assert track.present() == [False, True, False, True, True]
    assert track.span() == (1, 4)
    assert track.span(min_area=5) == (1, 3)
    assert track.span(min_area=8) is None
