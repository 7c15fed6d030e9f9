"""What filters want to know of a subject that was followed, measured while its masks pass by.

    identity     likeness of its first and its last crop by the comparer, which sinks when the follower drifts
    sharpness    variance of the Laplacian (grey levels 0..255) on it, in the sharpest of about 30 frames
    confidence   mean of the follower's scores where it is seen
    truncation   share of the frames it is seen in, in which its box touches the frame's border
"""

from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from alchemint.masks import Corners
from alchemint.perception.sightings import Comparer
from alchemint.records import Track

_SHARPNESS_FRAMES = 32


@dataclass(frozen=True)
class Crop:
    """What is seen of a subject on a frame: `area` mask pixels within box, and picture (height, width, 3) uint8."""

    frame: int
    area: int
    box: Corners
    picture: np.ndarray


@dataclass
class Looks:
    """What a subject looks like, from frames given in any order: two crops of it are kept, however many frames pass.

    A crop is good for comparing where at least half as much of the subject is seen as in the median of the frames so
    far; kept are the first and the last good one.

    num_frames: of the video. anchor: the frame on which it was found, whose sharpness is always measured.
    """

    num_frames: int
    anchor: int
    sharpness: float | None = None
    first: Crop | None = None
    last: Crop | None = None
    _areas: list[int] = field(default_factory=list)

    def see(self, number: int, frame: np.ndarray, mask: np.ndarray, box: Corners) -> None:
        """Take in frame (height, width, 3) number `number`, on which mask (height, width) within `box` shows it."""
        left, top, right, bottom = box
        within = frame[top:bottom, left:right]
        shown = mask[top:bottom, left:right]
        if number == self.anchor or number % max(1, self.num_frames // _SHARPNESS_FRAMES) == 0:
            self.sharpness = max(self.sharpness or 0.0, sharpness(within, shown))
        area = int(shown.sum())
        insort(self._areas, area)
        least = self._areas[len(self._areas) // 2] / 2
        if area < least:
            return
        # Copied, so that the frame it is cut from can be let go.
        if self.first is None or number < self.first.frame or self.first.area < least:
            self.first = Crop(number, area, box, within.copy())
        if self.last is None or number > self.last.frame or self.last.area < least:
            self.last = Crop(number, area, box, within.copy())


def sharpness(picture: np.ndarray, mask: np.ndarray) -> float:
    """Return the variance of the Laplacian of picture (height, width, 3) uint8 where mask (height, width) is true."""
    grey = cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2GRAY)
    edges = cv2.Laplacian(grey, cv2.CV_32F)
    return float(edges[mask].var()) if mask.any() else 0.0


def identities(looks: Sequence[Looks], comparer: Comparer | None) -> list[float | None]:
    """Return how like each subject's last crop is to its first (cosine); None where there is none, or no comparer."""
    pairs = {number: (look.first.picture, look.last.picture) for number, look in enumerate(looks)
             if look.first is not None and look.last is not None}
    told: list[float | None] = [None] * len(looks)
    if comparer is None or not pairs:
        return told
    embeds = comparer.embed_pictures([picture for pair in pairs.values() for picture in pair])
    for number, (first, last) in zip(pairs, embeds.reshape(len(pairs), 2, -1), strict=True):
        told[number] = float(first @ last)
    return told


def figures_of(track: Track, look: Looks, identity: float | None, size: tuple[int, int]) -> dict[str, float]:
    """Return a subject's figures; what could not be measured is left out.

    size: (width, height) of the frames.
    """
    found: dict[str, float | None] = {
        "identity": identity,
        "sharpness": look.sharpness,
        "confidence": confidence(track),
        "truncation": truncation(track, size),
    }
    return {name: value for name, value in found.items() if value is not None}


def confidence(track: Track) -> float | None:
    """Return the mean of the scores of the frames with the subject; None where it is in none, or nobody tells."""
    seen = [number for number, box in enumerate(track.boxes) if box is not None]
    return float(np.mean([track.scores[number] for number in seen])) if seen and track.scores else None


def truncation(track: Track, size: tuple[int, int]) -> float | None:
    """Return the share of the frames with the subject in which its box touches the border; None where it is in none.

    size: (width, height) of the frames.
    """
    width, height = size
    boxes = [box for box in track.boxes if box is not None]
    cut = [left == 0 or top == 0 or right == width or bottom == height for left, top, right, bottom in boxes]
    return sum(cut) / len(cut) if cut else None
