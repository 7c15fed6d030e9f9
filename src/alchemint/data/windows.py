"""Short windows of clips and reference pictures, in pixels: what a video VAE is trained on."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from alchemint import media
from alchemint.data.clips import ClipSource


@dataclass(frozen=True)
class WindowBatch:
    """pixels (batch, 3, frames, height, width) uint8; subject_mask (batch, 1, frames, height, width) bool."""

    pixels: torch.Tensor
    subject_mask: torch.Tensor

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "WindowBatch":
        """Return the batch on `device`."""
        return WindowBatch(self.pixels.to(device, non_blocking=non_blocking),
                           self.subject_mask.to(device, non_blocking=non_blocking))


@dataclass(frozen=True)
class WindowOptions:
    """Which windows make a batch. All windows of a batch have one length, drawn from `lengths` (4k+1)."""

    batch_size: int
    lengths: tuple[int, ...] = (5, 9)
    reference_share: float = 0.15
    """Share of the batches that show reference canvases, as one-frame videos, in place of windows."""


class PixelWindows(Dataset[WindowBatch]):
    """Batch number i; a pure function of the seed and i.

    A batch of reference canvases holds as many pictures as a batch of windows holds frames, at most four times the
    batch size.
    """

    def __init__(self, source: ClipSource, options: WindowOptions, seed: int, num_batches: int) -> None:
        self._source = source
        self._options = options
        self._seed = seed
        self._num_batches = num_batches

    def __len__(self) -> int:
        return self._num_batches

    def __getitem__(self, number: int) -> WindowBatch:
        random = np.random.default_rng((self._seed, number))
        first_clip = number * self._options.batch_size
        if random.random() < self._options.reference_share:
            pixels = self._canvases(first_clip)
            masks = (pixels != media.NEUTRAL).any(-1)
        else:
            length = int(random.choice(self._options.lengths))
            windows = [self._window(first_clip + row, length, random) for row in range(self._options.batch_size)]
            pixels, masks = (np.stack(parts) for parts in zip(*windows, strict=True))
        return WindowBatch(torch.from_numpy(pixels).permute(0, 4, 1, 2, 3).contiguous(),
                           torch.from_numpy(masks).unsqueeze(1))

    def _window(self, clip_number: int, length: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return the frames of a window (frames, height, width, 3), and where they show a subject."""
        clip = self._source(clip_number, None)
        start = int(random.integers(len(clip.frames) - length + 1))
        window = slice(start, start + length)
        return clip.frames[window], np.logical_or.reduce(clip.masks[:, window], axis=0)

    def _canvases(self, first_clip: int) -> np.ndarray:
        """Return reference canvases as one-frame videos (pictures, 1, height, width, 3)."""
        canvases = []
        for clip_number in range(first_clip, first_clip + self._options.batch_size):
            clip = self._source(clip_number, 4)
            _, height, width, _ = clip.frames.shape
            canvases += [media.reference_canvas(Image.fromarray(subject.references[0]), width, height)
                         for subject in clip.subjects]
        return np.stack(canvases)[:, None]
