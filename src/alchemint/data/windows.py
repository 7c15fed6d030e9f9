"""Short windows of clips and reference pictures, in pixels: what a video VAE is trained on."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from alchemint import media
from alchemint.data.clips import ClipSource


@dataclass(frozen=True)
class WindowOptions:
    """Which windows make a batch. All windows of a batch have one length, drawn from `lengths` (4k+1)."""

    batch_size: int
    lengths: tuple[int, ...] = (5, 9)
    reference_share: float = 0.15
    """Share of the batches that show reference canvases, as one-frame videos, in place of windows."""


class PixelWindows(Dataset[torch.Tensor]):
    """Batch number i as (batch, 3, frames, height, width) uint8; a pure function of the seed and i.

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

    def __getitem__(self, number: int) -> torch.Tensor:
        random = np.random.default_rng((self._seed, number))
        first_clip = number * self._options.batch_size
        if random.random() < self._options.reference_share:
            batch = self._canvases(first_clip)
        else:
            length = int(random.choice(self._options.lengths))
            batch = np.stack([self._window(first_clip + row, length, random)
                              for row in range(self._options.batch_size)])
        return torch.from_numpy(batch).permute(0, 4, 1, 2, 3).contiguous()

    def _window(self, clip_number: int, length: int, random: np.random.Generator) -> np.ndarray:
        frames = self._source(clip_number, None).frames
        start = int(random.integers(len(frames) - length + 1))
        return frames[start:start + length]

    def _canvases(self, first_clip: int) -> np.ndarray:
        canvases = []
        for clip_number in range(first_clip, first_clip + self._options.batch_size):
            clip = self._source(clip_number, 4)
            _, height, width, _ = clip.frames.shape
            canvases += [media.reference_canvas(Image.fromarray(subject.references[0]), width, height)
                         for subject in clip.subjects]
        return np.stack(canvases)[:, None]
