"""Which samples a clip can give: its size and length, and the windows of it that may be drawn. No video is read.

A clip's samples all have one shape, its bucket, so that clips of one bucket make batches without padding.

Shapes: N entities of the record, F frames of the clip, S starts of windows.
"""

from dataclasses import dataclass, field

import numpy as np

from alchemint import media, timeline
from alchemint.data.augmentation import AugmentationOptions
from alchemint.data.framing import Framing, Size, nearest_size
from alchemint.record_files import Place
from alchemint.records import ClipRecord

_SLOWEST = 0.95
"""A clip may have this share of the wanted frames a second; below that its windows would visibly stutter."""


@dataclass(frozen=True)
class SampleOptions:
    """What samples are made of a clip."""

    sizes: tuple[Size, ...]
    """(width, height) in pixels; a clip goes to the one that is nearest in aspect ratio."""
    num_frames: tuple[int, ...]
    """4k+1; a clip goes to the longest that fits its duration."""
    fps: float
    max_subjects: int = 4
    min_area: float = 0.002
    """An entity counts as seen where it fills more than this share of the picture."""
    canvas_share: float = media.CANVAS_SHARE
    event_share: float = 0.3
    """Share of the batches that have their timed captions."""
    with_masks: bool = False
    """Whether samples tell where subjects are seen, which a loss that is weighted by it needs."""
    latent_stride: int = 8
    """Pixels to a latent, in width and in height."""
    augmentation: AugmentationOptions = field(default_factory=AugmentationOptions)

    def __post_init__(self) -> None:
        """Raise ValueError for what no sample can be made of."""
        if not self.sizes or not self.num_frames:
            raise ValueError("sizes and num_frames must each name at least one")
        for width, height in self.sizes:
            if min(width, height) < 1 or width % self.latent_stride or height % self.latent_stride:
                raise ValueError(f"size {width} x {height}: both sides must be multiples of {self.latent_stride}, "
                                 "the pixels to a latent")
        for num_frames in self.num_frames:
            if not timeline.is_valid_num_frames(num_frames):
                mends = " or ".join(map(str, timeline.nearest_num_frames(num_frames)))
                raise ValueError(f"num_frames {num_frames}: the count must be 4k+1; use {mends}")
        if not self.fps > 0:
            raise ValueError(f"fps {self.fps:g} must be above 0")
        if self.max_subjects < 0:
            raise ValueError(f"max_subjects {self.max_subjects} must be 0 or more")
        if not 0 <= self.min_area < 1:
            raise ValueError(f"min_area {self.min_area:g}: the share of a picture must be at least 0 and below 1")
        if not 0 < self.canvas_share <= 1:
            raise ValueError(f"canvas_share {self.canvas_share:g} must be above 0 and at most 1")
        if not 0 <= self.event_share <= 1:
            raise ValueError(f"event_share {self.event_share:g} must be 0 to 1")


@dataclass(frozen=True, order=True)
class Bucket:
    """What the samples of a batch have in common."""

    num_frames: int
    height: int
    width: int
    num_subjects: int


@dataclass(frozen=True, eq=False)
class ClipPlan:
    """What is known of a clip before it is read. starts: (S,), the clip's frames at which a window may begin: those
    whose windows show as many subjects as the bucket has."""

    clip_id: str
    place: Place
    """Of its record."""
    bucket: Bucket
    starts: np.ndarray


def plan_clip(record: ClipRecord, place: Place, options: SampleOptions) -> ClipPlan | str:
    """Return what samples a clip can give, or why it gives none.

    The number of subjects is the most that any of its windows shows, but not more than `options.max_subjects`.
    """
    if record.fps < _SLOWEST * options.fps:
        return f"has less than {options.fps:g} frames a second"
    longest = longest_that_fits(record, options)
    if longest is None:
        return f"is shorter than {min(options.num_frames)} frames at {options.fps:g} frames a second"
    framing = framing_of(record, options)
    offsets = timeline.window_frames(0, longest, options.fps, record.fps)
    num_starts = record.num_frames - offsets[-1]
    seen = seen_frames(record, framing, options.min_area)
    shown = np.zeros((len(seen), num_starts), bool)
    for offset in offsets:
        shown |= seen[:, offset:offset + num_starts]
    counts = shown.sum(0).clip(max=options.max_subjects)
    num_subjects = int(counts.max())
    width, height = framing.target
    return ClipPlan(record.clip_id, place, Bucket(longest, height, width, num_subjects),
                    np.flatnonzero(counts == num_subjects).astype(np.int32))


def longest_that_fits(record: ClipRecord, options: SampleOptions) -> int | None:
    """Return the largest of the options' frame counts for which the clip is long enough, or None."""
    fitting = [num_frames for num_frames in options.num_frames
               if timeline.window_frames(0, num_frames, options.fps, record.fps)[-1] < record.num_frames]
    return max(fitting, default=None)


def framing_of(record: ClipRecord, options: SampleOptions) -> Framing:
    """Return how the clip is brought to the size that is nearest."""
    source = record.width, record.height
    return Framing(source, nearest_size(source, options.sizes))


def seen_frames(record: ClipRecord, framing: Framing, min_area: float) -> np.ndarray:
    """Return (N, F) bool: whether an entity fills more than `min_area` of the picture that is shown of a frame."""
    shares = [framing.shown_areas(entity.track) for entity in record.entities]
    return np.array(shares).reshape(len(shares), record.num_frames) > min_area
