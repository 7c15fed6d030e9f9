"""ClipRecord: the contract between those who write clips (toyworld, annotate) and those who read them (data).

A record describes one clip: its video file, captions, and the subjects seen in it. `record_files` keeps records; paths
are relative to the folder that it keeps them in. Masks are COCO run-length encodings (pycocotools, compressed,
column-major), one per frame.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from alchemint import timeline

SCHEMA_VERSION: Literal[2] = 2


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TimedCaption(_Row):
    """A caption of a part of the clip, [start, end) in seconds."""

    during: tuple[float, float]
    text: str


class Reference(_Row):
    """One picture of a subject: an image file with alpha, and the clip frame it was cut from (None: taken apart)."""

    image: str
    frame: int | None = None


class Track(_Row):
    """Where a subject is, frame by frame. Frames without it have area 0, an empty mask and no box.

    `masks` may be left unread (empty): where a subject is and how large is told by boxes and areas.
    """

    areas: tuple[int, ...] = Field(description="mask pixels per frame")
    boxes: tuple[tuple[int, int, int, int] | None, ...] = Field(description="x0, y0, x1, y1 per frame, end-exclusive")
    masks: tuple[str, ...] = Field((), description="COCO RLE counts per frame")
    scores: tuple[float, ...] = Field((), description="per frame, how sure the tracker is that the subject is in "
                                                      "sight; empty where nobody tells")

    @property
    def runs(self) -> list[timeline.Frames]:
        """The maximal runs of frames in which the subject is seen, first and last inclusive; gaps lie between."""
        return timeline.runs(self.present())

    def present(self, min_area: int = 1) -> list[bool]:
        """Tell per frame whether at least `min_area` mask pixels are seen."""
        return [area >= min_area for area in self.areas]

    def span(self, min_area: int = 1) -> timeline.Frames | None:
        """Return the first and last frame with at least `min_area` mask pixels; gaps between are ignored."""
        seen = [frame for frame, there in enumerate(self.present(min_area)) if there]
        return (seen[0], seen[-1]) if seen else None


class Entity(_Row):
    """A subject of the clip: the word that names it in the caption, its references and its track.

    `figures` are what annotation measured of it, by the names of its filters (blur, identity, ...).
    """

    name: str
    word: str
    references: tuple[Reference, ...]
    track: Track
    figures: dict[str, float] = {}


class Dropped(_Row):
    """An entity word that was left out, and the filter that did it, with what was measured and what is allowed."""

    word: str
    filter: str
    value: float | None = None
    threshold: float | None = None


class ClipRecord(_Row):
    """One clip with captions and tracked subjects.

    The clip is `num_frames` frames of its video from `first_frame` on. In a video of variable frame rate frame n is
    what is shown n / `fps` seconds after its beginning.
    """

    schema_version: Literal[2] = SCHEMA_VERSION
    clip_id: str
    source: str
    video: str = Field(description="relative to the records' folder, absolute, or a URL that fsspec opens")
    first_frame: int = Field(0, ge=0)
    fps: float = Field(gt=0)
    num_frames: int = Field(ge=1)
    width: int = Field(ge=1)
    height: int = Field(ge=1)
    caption: str
    events: tuple[TimedCaption, ...] = ()
    entities: tuple[Entity, ...] = ()
    dropped: tuple[Dropped, ...] = ()

    @model_validator(mode="after")
    def _tracks_cover_every_frame(self) -> "ClipRecord":
        for entity in self.entities:
            track = entity.track
            if not len(track.areas) == len(track.boxes) == self.num_frames:
                raise ValueError(f'clip {self.clip_id}, entity "{entity.name}": the track must have one area and one '
                                 f"box for each of the {self.num_frames} frames")
            if any(part and len(part) != self.num_frames for part in (track.masks, track.scores)):
                raise ValueError(f'clip {self.clip_id}, entity "{entity.name}": the track must have one mask and one '
                                 f"score for each of the {self.num_frames} frames, or none at all")
        return self


class FailedClip(_Row):
    """A clip that could not be annotated: at which stage, and why. Its video's path is as in ClipRecord.

    Where it failed before it was cut into clips, `first_frame` and `num_frames` are None: the whole file.
    """

    schema_version: Literal[2] = SCHEMA_VERSION
    clip_id: str
    source: str
    video: str
    first_frame: int | None = None
    num_frames: int | None = None
    stage: str
    reason: str
    dropped: tuple[Dropped, ...] = ()
