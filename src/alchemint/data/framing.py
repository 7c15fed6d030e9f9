"""How a clip's picture fits a wanted size: scaled to cover it, and cut at the sides that stand over, evenly."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from alchemint.records import Track

Size = tuple[int, int]
"""Width and height in pixels."""


def nearest_size(size: Size, sizes: Sequence[Size]) -> Size:
    """Return the one of `sizes` that is nearest to `size` in aspect ratio (by its logarithm); the first of equals."""
    def distance(other: Size) -> float:
        return abs(math.log(size[0] * other[1] / (size[1] * other[0])))

    return min(sizes, key=lambda other: round(distance(other), 9))


@dataclass(frozen=True)
class Framing:
    """A clip's frames of size `source`, shown at the size `target`."""

    source: Size
    target: Size

    @property
    def box(self) -> tuple[float, float, float, float]:
        """The part of a source frame that is shown: x0, y0, x1, y1, in its pixels."""
        scale = max(wanted / given for wanted, given in zip(self.target, self.source, strict=True))
        margins = [(given - min(given, wanted / scale)) / 2
                   for wanted, given in zip(self.target, self.source, strict=True)]
        return margins[0], margins[1], self.source[0] - margins[0], self.source[1] - margins[1]

    def check(self, frame: np.ndarray) -> None:
        """Raise ValueError for a frame (height, width, 3) that is not of the source's size."""
        height, width = frame.shape[:2]
        if (width, height) != self.source:
            raise ValueError(f"its frames are {width} x {height}, but the record says {self.source[0]} x "
                             f"{self.source[1]}; correct the record")

    def frame(self, frame: np.ndarray) -> np.ndarray:
        """Return a source frame (height, width, 3) uint8 at the target size."""
        return np.asarray(Image.fromarray(frame).resize(self.target, Image.Resampling.BICUBIC, box=self.box))

    def shares(self, mask: np.ndarray, stride: int) -> np.ndarray:
        """Return the share of true pixels in each square of `stride` x `stride` target pixels.

        mask: (height, width) bool, of a source frame. The shares are float32 (target height / stride, target width /
        stride).
        """
        width, height = (side // stride for side in self.target)
        picture = Image.fromarray(mask.astype(np.float32))
        return np.asarray(picture.resize((width, height), Image.Resampling.BOX, box=self.box))

    def shown_areas(self, track: Track) -> np.ndarray:
        """Return the share of the shown picture that a subject fills, per frame of its track, (frames,) float64.

        Where part of the frame is cut off, this is an estimate that takes a subject's pixels to be spread evenly over
        its box. Masks would tell exactly, but decoding all of them takes long.
        """
        left, top, right, bottom = self.box
        areas = np.asarray(track.areas, np.float64)
        boxes = np.array([box or (0, 0, 0, 0) for box in track.boxes], np.float64).reshape(-1, 4)
        whole = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        inside = ((boxes[:, 2].clip(left, right) - boxes[:, 0].clip(left, right))
                  * (boxes[:, 3].clip(top, bottom) - boxes[:, 1].clip(top, bottom)))
        shown = np.divide(inside, whole, out=np.zeros_like(whole), where=whole > 0)
        return areas * shown / ((right - left) * (bottom - top))
