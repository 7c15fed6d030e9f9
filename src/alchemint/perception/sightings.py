"""What perception is asked for and what it answers. Any finder works with any follower.

Shapes: a video is (frames, height, width, 3) uint8 RGB; boxes are (x0, y0, x1, y1) in pixels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image

from alchemint import media

MIN_SHARE = 1 / 500
"""Share of the frame that a mask must cover for its subject to count as seen."""


@dataclass(frozen=True)
class Sought:
    """Somebody or something to be looked for: the word that names it, and what it looks like, as far as known.

    references: pictures (height, width, 3) or, cut out, (height, width, 4), uint8. Not every finder looks at them.
    """

    word: str
    references: tuple[np.ndarray, ...] = ()


@dataclass(frozen=True)
class Box:
    """Where something was found: on which frame, its corners in pixels, and how sure the finder is, 0..1."""

    frame: int
    corners: tuple[float, float, float, float]
    score: float


@dataclass(frozen=True)
class Mask:
    """Where a subject (its place among the anchors) is seen on a frame: (height, width) bool, empty where it is not.

    score: how sure the follower is that the subject is in sight there; above 0 is yes, whatever the scale.
    """

    subject: int
    frame: int
    mask: np.ndarray
    score: float


class Frames(Protocol):
    """A video that need not lie in memory: an array (frames, height, width, 3) uint8 is one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(frames, height, width, 3)."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> np.ndarray:
        """Return a frame (height, width, 3) uint8. Going forwards or backwards is quick, jumping may not be."""


class Finder(Protocol):
    """Finds a subject on single frames."""

    def find(self, frames: np.ndarray, sought: Sought) -> list[Box]:
        """Return all candidates on `frames` (frames, height, width, 3); `Box.frame` counts within `frames`."""


class Comparer(Protocol):
    """Embeds words and pictures on one unit sphere, where the dot product is their likeness."""

    @property
    def sharpness(self) -> float:
        """The likenesses' factor in the softmax (of SigLIP: sigmoid) by which the model was trained."""

    def embed_words(self, words: Sequence[str]) -> np.ndarray:
        """Return unit vectors (words, dim)."""

    def embed_pictures(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """Return unit vectors (pictures, dim) of pictures (height, width, 3) uint8 of any sizes."""


class Follower(Protocol):
    """Follows subjects through a video, both ways from where they were found."""

    def follow(self, video: Frames, anchors: Sequence[Box], sought: Sequence[Sought]) -> Iterator[Mask]:
        """Yield a mask for every anchor and frame, in any order; none is kept, however long the video.

        `sought` is what each anchor was found for; not every follower looks at it.
        """


def gathered(masks: Iterator[Mask], num_subjects: int, video: Frames) -> np.ndarray:
    """Return what a follower yields as one array (subjects, frames, height, width) bool."""
    seen = np.zeros((num_subjects, *video.shape[:3]), bool)
    for found in masks:
        seen[found.subject, found.frame] = found.mask
    return seen


def is_seen(masks: np.ndarray) -> np.ndarray:
    """Tell per frame of masks (frames, height, width) bool whether a subject counts as seen, (frames) bool."""
    return np.asarray(masks.mean((1, 2)) >= MIN_SHARE)


def frames_to_search(num_frames: int, at_most: int) -> list[int]:
    """Return up to `at_most` frames, spread evenly over the video, the middle of each part; all of a short one."""
    count = min(num_frames, at_most)
    return [int((2 * part + 1) * num_frames / (2 * count)) for part in range(count)]


def crop(frame: np.ndarray, corners: tuple[float, float, float, float]) -> np.ndarray:
    """Return the part of a frame (height, width, 3) within a box, cut to the frame; at least one pixel."""
    height, width = frame.shape[:2]
    left, top = (int(np.clip(np.floor(value), 0, size - 1)) for value, size in zip(corners[:2], (width, height),
                                                                                 strict=True))
    right = int(np.clip(np.ceil(corners[2]), left + 1, width))
    bottom = int(np.clip(np.ceil(corners[3]), top + 1, height))
    return frame[top:bottom, left:right]


def as_crop(reference: np.ndarray) -> np.ndarray:
    """Return a reference as a crop of a frame would show it, RGB: a cut-out is laid on grey and cut tight."""
    if reference.shape[2] == 3:
        return reference
    image = Image.fromarray(reference)
    return np.asarray(media.flattened(image.crop(image.getchannel("A").getbbox()), (media.NEUTRAL,) * 3))


def bounding_box(mask: np.ndarray) -> tuple[float, float, float, float]:
    """Return the corners of the box around a mask (height, width) bool that is true somewhere."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)
