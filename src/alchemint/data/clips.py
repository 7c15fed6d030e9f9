"""What training needs to know of a clip, wherever it comes from: a renderer that streams, or records on disk.

Shapes: F frames, H height, W width, N subjects.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from alchemint.records import TimedCaption


class ClipSubject(Protocol):
    """A subject of a clip."""

    @property
    def word(self) -> str:
        """The entity word, exactly as the caption has it."""

    @property
    def references(self) -> Sequence[np.ndarray]:
        """Pictures of the subject taken apart from the clip, each (height, width, 4) uint8 RGBA."""

    @property
    def interval(self) -> tuple[float, float]:
        """When the subject is on screen, [start, end) in seconds."""

    @property
    def to_reference(self) -> np.ndarray:
        """(F, 2, 3): maps points of each frame to points of the first reference, in pixels; NaN where it is not there.

        Asked for only where attention is guided.
        """


class Clip(Protocol):
    """A video with captions and subjects."""

    @property
    def frames(self) -> np.ndarray:
        """(F, H, W, 3) uint8."""

    @property
    def masks(self) -> np.ndarray:
        """(N, F, H, W) bool: where each subject is seen."""

    @property
    def caption(self) -> str:
        """What the whole clip shows."""

    @property
    def events(self) -> Sequence[TimedCaption]:
        """What happens when; spans do not overlap."""

    @property
    def subjects(self) -> Sequence[ClipSubject]:
        """The subjects, in the order of `masks`."""

    @property
    def fps(self) -> float:
        """Frames a second."""


ClipSource = Callable[[int, int | None], Clip]
"""(index, number of subjects or None for any) -> clip number `index`; the same arguments give the same clip."""
