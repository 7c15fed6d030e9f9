"""A video as models that follow take it: square, normalised frames of their own size, made when they are asked for."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from alchemint.perception.sightings import Frames


@dataclass(frozen=True)
class ModelFrames:
    """A video as a model wants its frames (3, size, size), each made when it is asked for.

    mean, std: what the model subtracts from and divides by the colours 0..1.
    """

    video: Frames
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    device: torch.device
    dtype: torch.dtype

    def __len__(self) -> int:
        return len(self.video)

    def __getitem__(self, number: int) -> torch.Tensor:
        pixels = torch.tensor(self.video[number], device=self.device).permute(2, 0, 1)[None].float() / 255
        pixels = F.interpolate(pixels, (self.size, self.size), mode="bilinear", antialias=True)[0]
        mean, std = (torch.tensor(values, device=self.device).view(3, 1, 1) for values in (self.mean, self.std))
        return ((pixels - mean) / std).to(self.dtype)
