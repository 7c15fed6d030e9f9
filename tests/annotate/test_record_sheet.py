"""The picture of a record: masks where they are, bars when they are seen."""

import numpy as np
import pytest
from PIL import ImageColor

from alchemint import sheet
from alchemint.annotate.record_sheet import TINT, record_sheet, stills_of, with_masks
from alchemint.masks import track_of
from alchemint.records import ClipRecord, Dropped, Entity, TimedCaption

SIDE, NUM_FRAMES = 40, 13


@pytest.fixture
def masks() -> np.ndarray:
    masks = np.zeros((2, NUM_FRAMES, SIDE, SIDE), bool)
    masks[0, 2:9, 5:20, 5:20] = True
    masks[0, 5, 5:30, 5:30] = True
    masks[1, 0:3, 25:35, 25:35] = True
    return masks


@pytest.fixture
def record(masks: np.ndarray) -> ClipRecord:
    entities = tuple(Entity(name=word, word=word, references=(), track=track_of(rows))
                     for word, rows in zip(("fox", "red ball"), masks, strict=True))
    return ClipRecord(clip_id="meadow-1", source="test", video="a.mp4", fps=6, num_frames=NUM_FRAMES, width=SIDE,
                      height=SIDE, caption="A fox and a red ball.", entities=entities,
                      events=(TimedCaption(during=(0, 1), text="a ball rolls"),),
                      dropped=(Dropped(word="tree", filter="identity", value=0.25, threshold=0.6),))


@pytest.fixture
def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (NUM_FRAMES, SIDE, SIDE, 3), np.uint8)


def test_masks_are_tinted_within_and_outlined(record: ClipRecord, masks: np.ndarray, frames: np.ndarray) -> None:
    drawn = with_masks(frames[2], record, 2)
    nobody = ~masks[:, 2].any(0)
    assert np.array_equal(drawn[nobody], frames[2][nobody])
    for place in (0, 1):
        colour = np.array(ImageColor.getrgb(sheet.COLOURS[place]))
        rows, columns = np.nonzero(masks[place, 2])
        inside = np.zeros((SIDE, SIDE), bool)
        inside[rows.min() + 1:rows.max(), columns.min() + 1:columns.max()] = True
        assert np.abs(drawn[inside] - (frames[2][inside] * (1 - TINT) + colour * TINT)).max() <= 2
        assert (drawn[masks[place, 2] & ~inside] == colour).all()


def test_the_sheet_needs_the_frames_it_names(record: ClipRecord, frames: np.ndarray) -> None:
    needed = stills_of(record, num_columns=4)
    assert needed == sorted({0, 4, 8, 12} | {5, 0})
    page = record_sheet(record, {number: frames[number] for number in needed}, num_columns=4)
    assert page.mode == "RGB"


def test_bars_have_gaps_where_nobody_is_seen(record: ClipRecord, masks: np.ndarray, frames: np.ndarray) -> None:
    """The first subject's bar is interrupted where its mask is."""
    def coloured(rows: np.ndarray) -> int:
        changed = record.model_copy(update={"entities": (record.entities[0].model_copy(
            update={"track": track_of(rows)}),), "events": ()})
        page = np.asarray(record_sheet(changed, dict(enumerate(frames))))
        middle = page.shape[0] - 14 - sheet.ROW_HEIGHT // 2
        return int((page[middle - 10] == ImageColor.getrgb(sheet.COLOURS[0])).all(-1).sum())

    whole, gap = masks[0].copy(), masks[0].copy()
    gap[4:6] = False
    assert 0 < coloured(gap) < coloured(whole)
