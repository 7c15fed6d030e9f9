"""Clips on disk, written once: of two sizes and two lengths, with references of every kind."""

from pathlib import Path
from typing import Any

import pytest

from alchemint.data.augmentation import NO_AUGMENTATION
from alchemint.data.clip_plans import SampleOptions
from alchemint.record_files import write_records
from alchemint.records import ClipRecord, Reference
from alchemint.toyworld import WorldConfig, render_clip
from alchemint.toyworld.clip_files import to_record


def changed(record: ClipRecord, **changes: Any) -> ClipRecord:
    return record.model_copy(update=changes)


def without_references(record: ClipRecord) -> ClipRecord:
    return changed(record, entities=tuple(entity.model_copy(update={"references": ()}) for entity in record.entities))


@pytest.fixture(scope="session")
def options() -> SampleOptions:
    """Nothing but what the clips show: no augmentation. Windows of 9 frames; of 17 where a clip is long enough."""
    return SampleOptions(sizes=((32, 32), (48, 32)), num_frames=(9, 17), fps=6.0, max_subjects=2, with_masks=True,
                         augmentation=NO_AUGMENTATION)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 14 clips: 8 of 32 x 32 and 25 frames, every other without references; 4 of 48 x 32 and 13 frames; one
    too short, and one whose frames are slower than asked for."""
    folder = tmp_path_factory.mktemp("world")
    square, wide = WorldConfig(32, 32, 25, fps=6.0), WorldConfig(48, 32, 13, fps=6.0)
    records = [to_record(render_clip("train", index, square, num_subjects=index % 4), folder) for index in range(8)]
    records = [without_references(record) if index % 2 else record for index, record in enumerate(records)]
    records += [to_record(render_clip("train", index, wide, num_subjects=2), folder) for index in range(8, 12)]
    short = to_record(render_clip("train", 12, WorldConfig(width=32, height=32, num_frames=13, fps=12.0)), folder)
    slow = changed(to_record(render_clip("train", 13, square), folder), fps=3.0)
    write_records(folder, [*records, short, slow])
    return folder


def with_frames(record: ClipRecord, frames: list[int]) -> ClipRecord:
    """The record, whose entities' references are said to show certain frames of the clip."""
    return changed(record, entities=tuple(
        entity.model_copy(update={"references": tuple(Reference(image=f"{entity.name}-{frame}.png", frame=frame)
                                                      for frame in frames)}) for entity in record.entities))
