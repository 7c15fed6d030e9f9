"""A picture of a clip's record for people: frames with the subjects' masks drawn over them, and when each is seen."""

from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageFilter

from alchemint import sheet, timeline
from alchemint.masks import decoded_mask
from alchemint.records import ClipRecord, Dropped, Entity

TINT = 0.4
"""Opacity of a mask over its frame; its outline is drawn in full."""


def stills_of(record: ClipRecord, num_columns: int = 9) -> list[int]:
    """Return the frames of a clip that its sheet needs: those it shows, then each subject's largest."""
    return sorted({*sheet.shown_frames(record.num_frames, num_columns), *map(_best_frame, record.entities)})


def record_sheet(record: ClipRecord, frames: Mapping[int, np.ndarray], num_columns: int = 9) -> Image.Image:
    """Return the sheet of a record.

    Args:
        record: with masks.
        frames: (height, width, 3) uint8 by number, counted from the clip's first; those of `stills_of`.
        num_columns: frames in the strip.
    """
    stills = {number: with_masks(frames[number], record, number)
              for number in sheet.shown_frames(record.num_frames, num_columns)}
    bars = [sheet.Bar(entity.word, _seconds(entity, record), _cut_out(entity, frames)) for entity in record.entities]
    if record.events:
        bars.append(sheet.Bar("events", [event.during for event in record.events], None,
                              [event.text for event in record.events], sheet.EVENT_COLOUR))
    return sheet.sheet_of_stills(stills, record.fps, bars, record.caption, _subtitle(record))


def with_masks(frame: np.ndarray, record: ClipRecord, number: int) -> np.ndarray:
    """Return a frame (height, width, 3) uint8 with the mask of each subject tinted and outlined in its colour."""
    height, width = frame.shape[:2]
    page = Image.fromarray(frame)
    for place, entity in enumerate(record.entities):
        if entity.track.areas[number] == 0:
            continue
        mask = Image.fromarray(np.uint8(255) * decoded_mask(entity.track.masks[number], (width, height)))
        # An outline as wide as it takes to be seen when the frame is shown small.
        inner = mask.filter(ImageFilter.MinFilter(2 * max(1, round(min(height, width) / 200)) + 1))
        colour = sheet.COLOURS[place % len(sheet.COLOURS)]
        outline = Image.fromarray(np.asarray(mask) - np.asarray(inner))
        page.paste(colour, (0, 0), mask.point(lambda value: round(value * TINT)))
        page.paste(colour, (0, 0), outline)
    return np.asarray(page)


def _seconds(entity: Entity, record: ClipRecord) -> list[timeline.Seconds]:
    return [timeline.seconds_of(run, record.fps, record.num_frames) for run in entity.track.runs]


def _cut_out(entity: Entity, frames: Mapping[int, np.ndarray]) -> Image.Image | None:
    number = _best_frame(entity)
    frame = frames[number]
    mask = decoded_mask(entity.track.masks[number], (frame.shape[1], frame.shape[0]))
    return Image.fromarray(np.dstack([frame, np.uint8(255) * mask])) if mask.any() else None


def _best_frame(entity: Entity) -> int:
    return int(np.argmax(entity.track.areas))


def _subtitle(record: ClipRecord) -> str:
    parts = [record.clip_id, f"{record.num_frames} frames at {record.fps:.4g} a second"]
    parts += [f'dropped "{gone.word}" ({gone.filter}{_measured(gone)})' for gone in record.dropped]
    return " · ".join(parts)


def _measured(gone: Dropped) -> str:
    if gone.value is None:
        return ""
    return f" {gone.value:.3g}" + ("" if gone.threshold is None else f", allowed {gone.threshold:g}")
