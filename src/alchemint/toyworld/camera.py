"""A slow camera: it stays, pans or zooms over a background, and what stands in the world moves along."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from alchemint.toyworld.motion import Poses

MOVES = ("still", "pans left", "pans right", "zooms in", "zooms out")
_ODDS = (0.6, 0.12, 0.12, 0.08, 0.08)
PAN = 0.14
"""How far a pan goes over the whole clip, in frame widths."""

_ZOOM = 1.18


@dataclass(frozen=True, eq=False)
class Camera:
    """A move by name, and per frame how far right of the middle it looks (pixels) and how near (1 = all)."""

    move: str
    offset: np.ndarray
    zoom: np.ndarray

    @property
    def margin(self) -> int:
        """Pixels of background needed beyond the frame on either side."""
        return int(np.ceil(np.abs(self.offset).max())) + 1 if self.move.startswith("pans") else 0

    def shoot(self, background: np.ndarray, width: int) -> np.ndarray:
        """Return the frames of an empty background: uint8 (frames, height, width, 3).

        `background` is uint8 (height, width + 2 margin, 3).
        """
        num_frames, height = len(self.offset), background.shape[0]
        frames = np.empty((num_frames, height, width, 3), np.uint8)
        if self.move == "still":
            frames[:] = background
            return frames
        picture = Image.fromarray(background)
        for frame in range(num_frames):
            wide, high = width / self.zoom[frame], height / self.zoom[frame]
            left = (background.shape[1] - wide) / 2 + self.offset[frame]
            top = (height - high) / 2
            seen = picture.resize((width, height), Image.Resampling.BILINEAR,
                                  box=(left, top, left + wide, top + high))
            frames[frame] = np.asarray(seen)
        return frames

    def follow(self, poses: Poses, first: int, width: int, height: int) -> Poses:
        """Return the poses of a stay that begins at frame `first` as the moving camera sees them.

        The middle of the stay is seen as planned; before and after it the subject moves with the world.
        """
        if self.move == "still":
            return poses
        frames = slice(first, first + len(poses.x))
        middle = first + len(poses.x) // 2
        nearer = self.zoom[frames] / self.zoom[middle]
        shift = self.offset[frames] - self.offset[middle]
        return Poses(width / 2 + (poses.x - width / 2) * nearer - shift, height / 2 + (poses.y - height / 2) * nearer,
                     poses.scale_x * nearer, poses.scale_y * nearer, poses.angle, poses.opacity, poses.lift)


def draw_camera(rng: np.random.Generator, num_frames: int, width: int) -> Camera:
    """Draw a camera for a clip; most stay still."""
    move = str(rng.choice(MOVES, p=_ODDS))
    share = np.linspace(-0.5, 0.5, num_frames)
    offset, zoom = np.zeros(num_frames), np.ones(num_frames)
    if move.startswith("pans"):
        offset = share * PAN * width * (1 if move.endswith("right") else -1)
    elif move.startswith("zooms"):
        grown = 1 + (_ZOOM - 1) * (share + 0.5)
        zoom = grown if move.endswith("in") else grown[::-1].copy()
    return Camera(move, offset, zoom)
