"""Clips on disk: a video, reference pictures and a ClipRecord each."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from alchemint import media
from alchemint.records import ClipRecord, Entity, Reference, Track, write_records
from alchemint.toyworld.world import Clip

SOURCE = "toyworld"


def write_clips(clips: Iterable[Clip], folder: Path) -> list[ClipRecord]:
    """Write clips into `folder`: videos, references and `records.jsonl`, which comes last; return the records."""
    records = list(_written(clips, folder))
    write_records(folder, records)
    return records


def to_record(clip: Clip, folder: Path) -> ClipRecord:
    """Write a clip's video and references into `folder` and return its record, with paths relative to it.

    Raises ValueError for an odd width or height, which the video cannot hold.
    """
    clip_id = f"{clip.split}-{clip.index:06d}"
    video = f"videos/{clip_id}.mp4"
    media.write_video(folder / video, clip.frames, clip.fps)
    entities = []
    for subject, masks in zip(clip.subjects, clip.masks, strict=True):
        images = [f"references/{clip_id}-{subject.name}-{view}.png" for view in range(len(subject.references))]
        for image, picture in zip(images, subject.references, strict=True):
            media.write_image(folder / image, picture)
        entities.append(Entity(name=subject.name, word=subject.word, track=track_of(masks),
                               references=tuple(Reference(image=image) for image in images)))
    num_frames, height, width = clip.frames.shape[:3]
    return ClipRecord(clip_id=clip_id, source=SOURCE, video=video, fps=clip.fps, num_frames=num_frames, width=width,
                      height=height, caption=clip.caption, events=clip.events, entities=tuple(entities))


def track_of(masks: np.ndarray) -> Track:
    """Return the track of a subject whose masks are bool (frames, height, width)."""
    return Track(areas=tuple(int(area) for area in masks.sum((1, 2))), boxes=tuple(_box(mask) for mask in masks),
                 masks=tuple(run_length_text(mask) for mask in masks))


def run_length_text(mask: np.ndarray) -> str:
    """Return a mask, bool (height, width), as COCO's compressed run-length encoding.

    Runs go down the columns and begin with pixels outside the mask. From the fourth run on, each is written as its
    difference to the run two before, in groups of five bits from the lowest, a sixth bit telling that more follow.
    """
    flat = np.concatenate([[False], mask.ravel(order="F")])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    runs = np.diff(np.concatenate([[0], changes, [mask.size]])).tolist()
    text = []
    for place, run in enumerate(runs):
        rest = run - runs[place - 2] if place > 2 else run
        more = True
        while more:
            bits = rest & 31
            rest >>= 5
            more = rest != (-1 if bits & 16 else 0)
            text.append(chr(48 + bits + 32 * more))
    return "".join(text)


def _written(clips: Iterable[Clip], folder: Path) -> Iterator[ClipRecord]:
    for clip in clips:
        yield to_record(clip, folder)


def _box(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
