"""Short windows of clips and reference pictures, in pixels: what a video VAE is trained on."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from alchemint import media
from alchemint.data.clips import ClipSource

_PER_CLIP = 4


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
    """Which windows make a batch. All windows of a batch have one length, drawn from `lengths` (4k+1).

    A batch holds `frames_per_batch` frames, however long its windows are: few long ones or many short ones, of which up
    to four come from one clip.
    """

    frames_per_batch: int
    lengths: tuple[int, ...] = (5, 9)
    reference_share: float = 0.15
    """Share of the batches that show reference canvases, as one-frame videos, in place of windows."""
    share: tuple[int, int] = (0, 1)
    """Which part of the batch these frames are: its number, and how many parts there are (one for each process)."""


class PixelWindows(Dataset[WindowBatch]):
    """Batch number i; a pure function of the seed and i.

    Batches of reference canvases are one frame long.
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
        if random.random() < self._options.reference_share:
            pixels = self._canvases(number)
            masks = (pixels != media.NEUTRAL).any(-1)
        else:
            windows = self._windows(number, int(random.choice(self._options.lengths)), random)
            pixels, masks = (np.stack(parts) for parts in zip(*windows, strict=True))
        return WindowBatch(torch.from_numpy(pixels).permute(0, 4, 1, 2, 3).contiguous(),
                           torch.from_numpy(masks).unsqueeze(1))

    def _windows(self, number: int, length: int, random: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return windows, each as frames (frames, height, width, 3) and where they show a subject."""
        count = max(1, self._options.frames_per_batch // length)
        windows: list[tuple[np.ndarray, np.ndarray]] = []
        for clip_number in self._clip_numbers(number):
            clip = self._source(clip_number, None)
            starts = np.arange(0, len(clip.frames) - length + 1)
            for start in random.choice(starts, min(_PER_CLIP, len(starts), count - len(windows)), replace=False):
                window = slice(start, start + length)
                windows.append((clip.frames[window], np.logical_or.reduce(clip.masks[:, window], axis=0)))
            if len(windows) == count:
                break
        return windows

    def _canvases(self, number: int) -> np.ndarray:
        """Return reference canvases as one-frame videos (pictures, 1, height, width, 3)."""
        canvases: list[np.ndarray] = []
        for clip_number in self._clip_numbers(number):
            clip = self._source(clip_number, _PER_CLIP)
            _, height, width, _ = clip.frames.shape
            canvases += [media.reference_canvas(Image.fromarray(subject.references[0]), width, height)
                         for subject in clip.subjects]
            if len(canvases) >= self._options.frames_per_batch:
                break
        return np.stack(canvases[:self._options.frames_per_batch])[:, None]

    def _clip_numbers(self, number: int) -> range:
        """Return the clips that this part of batch `number` may use; no other uses them."""
        part, num_parts = self._options.share
        first = (number * num_parts + part) * self._options.frames_per_batch
        return range(first, first + self._options.frames_per_batch)
