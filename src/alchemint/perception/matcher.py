"""The network of the toy perception: it looks in frames for what is sought.

What is sought is a set of features: those of all places of a reference picture, which goes through the frames' own
trunk at about the size that subjects have in frames; or a few learnt ones that stand for any subject whatever. Every
place of the frame looks for its like in the set, and what it finds is weighed with its surroundings, in the frames
before and after, too. All that are sought compete for each place, so that of two look-alikes the likelier one gets it.

Shapes: V videos, F frames, N sought, P features of each, frames SIZE x SIZE pixels, h x w = a quarter of that.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from alchemint import media

SIZE, CANVAS = 64, 44
_STRIDE = 4
_FEATURES_OF_ANYTHING = 8


class Looks(NamedTuple):
    """What the sought look like: features (..., N, P, width), and which of them count, (..., N, P) bool."""

    features: Tensor
    counts: Tensor


class Matcher(nn.Module):
    """(frames, looks of the sought) -> logits of each of them at each place."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.stem = nn.ModuleList([nn.Conv2d(3, width // 2, 5, 2, 2), nn.Conv2d(width // 2, width, 3, 2, 1)])
        self.trunk = nn.ModuleList([nn.Conv2d(width, width, 3, 1, 1) for _ in range(2)])
        self.down = nn.Conv2d(width, 2 * width, 3, 2, 1)
        self.deep = nn.ModuleList([nn.Sequential(nn.GroupNorm(8, 2 * width), nn.Conv2d(2 * width, 2 * width, 3, 1, 1))
                                   for _ in range(4)])
        self.up = nn.Conv2d(2 * width, width, 1)
        self.anything = nn.Embedding(_FEATURES_OF_ANYTHING, width)
        self.key = nn.Linear(width, width)
        self.temperature = nn.Parameter(torch.tensor(2.0))
        self.join = nn.Conv2d(4 * width + 1, width, 1)
        self.compare = nn.ModuleList([nn.Conv2d(width, width, 3, 1, dilation, dilation=dilation)
                                      for dilation in (1, 2, 1)])
        self.before_and_after = nn.ModuleList([nn.Conv2d(3 * width, width, 1) for _ in range(2)])
        self.coarse = nn.Conv2d(width, width // 2, 1)
        self.edges = nn.Conv2d(width // 2, width // 2, 1)
        self.refine = nn.Conv2d(width // 2, width // 2, 3, 1, 1)
        self.out = nn.Conv2d(width // 2, 1, 1)
        assert self.out.bias is not None
        nn.init.constant_(self.out.bias, -2.5)

    def features(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Return (B, width, height / 4, width / 4), and (B, width / 2, height / 2, width / 2) of early, fine ones, of
        pictures (B, 3, height, width) as `as_pixels` makes them."""
        fine = F.gelu(self.stem[0](pictures))
        features = F.gelu(self.stem[1](fine))
        for layer in self.trunk:
            features = features + F.gelu(layer(features))
        deep = self.down(features)
        for layer in self.deep:
            deep = deep + F.gelu(layer(deep))
        deep = F.interpolate(self.up(deep), features.shape[-2:], mode="bilinear", align_corners=False)
        return features + deep, fine

    def looks_of_pictures(self, references: Tensor) -> Looks:
        """Return the looks, N of them, of references (N, 3, CANVAS, CANVAS); the canvas's grey does not count."""
        features = self.features(references)[0].flatten(2).transpose(1, 2)
        solid = F.avg_pool2d((references.abs().amax(1, keepdim=True) > 0.02).float(), _STRIDE).flatten(1) > 0.3
        return Looks(features, solid)

    def looks_of_anything(self, number: int = 1) -> Looks:
        """Return the looks of any subject whatever, `number` times."""
        features = self.anything(torch.arange(_FEATURES_OF_ANYTHING)).expand(number, -1, -1)
        return Looks(features, torch.ones(features.shape[:2], dtype=torch.bool))

    def forward(self, frames: Tensor, looks: Looks) -> Tensor:
        """Return logits (V, N, F, SIZE / 2, SIZE / 2) of the sought of each video, whose `looks` are (V, N, P, width).

        frames: (V, F, 3, SIZE, SIZE), F of them in a row.
        """
        videos, num_frames = frames.shape[:2]
        seen, fine = self.features(frames.flatten(0, 1))
        grid = seen.shape[-2:]
        places = seen.unflatten(0, (videos, num_frames)).permute(0, 1, 3, 4, 2).flatten(1, 3)  # (V, F h w, width)
        likeness = (F.normalize(self.key(places), dim=-1).unsqueeze(1)
                    @ F.normalize(self.key(looks.features), dim=-1).transpose(2, 3))  # (V, N, F h w, P)
        likeness = likeness.masked_fill(~looks.counts.unsqueeze(2), -2.0)
        found = (likeness * self.temperature.exp()).softmax(-1).to(places.dtype) @ looks.features.to(places.dtype)
        beside = places.unsqueeze(1).expand_as(found)
        hidden = torch.cat([beside, found, beside * found, (beside - found).abs(), likeness.amax(-1, keepdim=True)], -1)
        num_sought = hidden.shape[1]
        hidden = hidden.view(-1, *grid, hidden.shape[-1]).permute(0, 3, 1, 2)  # (V N F, channels, h, w)
        hidden = F.gelu(self.join(hidden))
        for number, layer in enumerate(self.compare):
            hidden = hidden + F.gelu(layer(hidden))
            if number < len(self.before_and_after):
                hidden = hidden + F.gelu(self.before_and_after[number](_with_neighbours(hidden, num_frames)))
        edges = self.edges(fine).unflatten(0, (videos, 1, num_frames)).expand(-1, num_sought, -1, -1, -1, -1)
        hidden = F.gelu(F.interpolate(self.coarse(hidden), fine.shape[-2:], mode="nearest") + edges.flatten(0, 2))
        hidden = hidden + F.gelu(self.refine(hidden))
        logits: Tensor = self.out(hidden).squeeze(1).unflatten(0, (videos, num_sought, num_frames))
        return logits


def _with_neighbours(hidden: Tensor, num_frames: int) -> Tensor:
    """Return (B F, 3 C, h, w): each frame's channels with those of the frame before and the frame after, or zeros."""
    videos = hidden.unflatten(0, (-1, num_frames))
    nothing = torch.zeros_like(videos[:, :1])
    before = torch.cat([nothing, videos[:, :-1]], 1)
    after = torch.cat([videos[:, 1:], nothing], 1)
    return torch.cat([before, videos, after], 2).flatten(0, 1)


def shares(logits: Tensor) -> Tensor:
    """Return which share of each place each of the sought has, (N, ...): a softmax with "none of them" at 0."""
    none = torch.zeros_like(logits[:1])
    return torch.cat([none, logits]).softmax(0)[1:]


def reference_canvas(reference: np.ndarray) -> np.ndarray:
    """Lay a picture, RGBA by what of it is visible, on (CANVAS, CANVAS, 3) uint8 grey with a margin."""
    return media.reference_canvas(Image.fromarray(reference), CANVAS, CANVAS, share=0.8)


def as_pixels(pictures: np.ndarray) -> Tensor:
    """Convert uint8 (B, height, width, 3) to (B, 3, height, width), about -1..1, the canvas's grey being 0."""
    return (torch.from_numpy(pictures).permute(0, 3, 1, 2).float() - media.NEUTRAL) / 128
