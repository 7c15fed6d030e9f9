"""What goes from stage to stage while a clip is annotated. Nothing in it is large: frames are read where they are used.

    Source (a video file) -> cut into Clips -> captioned -> words named -> boxes found -> followed -> ClipRecord
"""

from dataclasses import dataclass, field

from alchemint.media import VideoFacts
from alchemint.perception.sightings import Box
from alchemint.records import Dropped, TimedCaption, Track


class UnfitError(Exception):
    """Says why a clip can't be annotated, and which words were dropped: the clip's row in place of a record."""

    def __init__(self, reason: str, dropped: tuple[Dropped, ...] = ()) -> None:
        super().__init__(reason)
        self.dropped = dropped


@dataclass(frozen=True)
class Given:
    """What somebody has said of a video file, or of the part of it within `during`, [start, end) in seconds.

    Times of events count from the beginning of that part.
    """

    caption: str
    events: tuple[TimedCaption, ...] = ()
    during: tuple[float, float] | None = None


@dataclass(frozen=True)
class Source:
    """A video file to be annotated.

    given: a file with parts that were captioned is cut into these and no others.
    name: its path within the folder or prefix that was given, with "/", by which it is known whatever machine reads it.
    address: how to open it, a path or a URL of fsspec.
    """

    name: str
    address: str
    given: tuple[Given, ...] = ()


@dataclass(frozen=True)
class Found:
    """A subject that was found: its word, the box from which it is followed, and how like the word that box is."""

    word: str
    anchor: Box
    likeness: float | None = None


@dataclass(frozen=True)
class Followed:
    """A subject that was followed; figures are what filters measured of it, by their names."""

    found: Found
    track: Track
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Clip:
    """A clip on its way: `num_frames` frames of a source from `first_frame` on. What is not known yet is empty.

    Box.frame, tracks and events count from the clip's own first frame.
    """

    clip_id: str
    source: Source
    facts: VideoFacts
    first_frame: int
    num_frames: int
    caption: str = ""
    events: tuple[TimedCaption, ...] = ()
    words: tuple[str, ...] = ()
    found: tuple[Found, ...] = ()
    followed: tuple[Followed, ...] = ()
    dropped: tuple[Dropped, ...] = ()
