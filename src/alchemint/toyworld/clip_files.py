"""Clips on disk: a video, reference pictures and a ClipRecord each."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from alchemint import media
from alchemint.masks import track_of
from alchemint.record_files import write_records
from alchemint.records import ClipRecord, Entity, Reference
from alchemint.toyworld.world import Clip

SOURCE = "toyworld"
CAPTIONS_FILE = "captions.jsonl"


def write_clips(clips: Iterable[Clip], folder: Path) -> list[ClipRecord]:
    """Write clips into `folder`: videos, references, captions and, last of all, their records; return the records.

    The captions are those of the folder "videos", as `alchemint annotate` takes them.
    """
    records = list(_written(clips, folder))
    media.write_text(folder / CAPTIONS_FILE, "".join(map(_caption_line, records)))
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


def _caption_line(record: ClipRecord) -> str:
    values = {"video": Path(record.video).name, "caption": record.caption,
              "events": [event.model_dump() for event in record.events]}
    return json.dumps(values, ensure_ascii=False) + "\n"


def _written(clips: Iterable[Clip], folder: Path) -> Iterator[ClipRecord]:
    for clip in clips:
        yield to_record(clip, folder)
