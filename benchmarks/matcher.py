"""Tells in which frames a subject is seen, from its reference picture: a small network that compares the two.

Frame and reference go through one convolutional trunk; the reference's features, averaged over its own pixels in
several ways, steer what is looked for in the frame. The network draws where the subject is; a frame shows the subject
when enough of it is drawn. It learns on toyworld's training subjects, and matching, not naming, is all that it can
learn: every instance is re-coloured. How right it is on never-seen subjects is printed by toy_control.py first.

    python benchmarks/matcher.py        # train it (a few minutes on one core) into benchmarks/matcher.safetensors

Shapes: B pairs of a frame and a reference, both size x size pixels.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from alchemint import media, timeline
from alchemint.toyworld import Clip, WorldConfig, render_clip

WEIGHTS = Path(__file__).with_name("matcher.safetensors")
SIZE = 64
PRESENT_SHARE = 0.008
"""Share of the frame that must be drawn for the subject to count as seen."""


class Matcher(nn.Module):
    """(frames, references) -> logits of the subject's mask at a quarter of the resolution."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.trunk = nn.ModuleList([
            nn.Conv2d(3, width // 2, 5, 2, 2), nn.Conv2d(width // 2, width, 3, 2, 1), nn.Conv2d(width, width, 3, 1, 1)])
        self.deeper = nn.Conv2d(width, 2 * width, 3, 2, 1)
        self.steer = nn.Sequential(nn.Linear(5 * width, 2 * width), nn.GELU(), nn.Linear(2 * width, 4 * width))
        self.compare = nn.ModuleList([nn.Conv2d(3 * width + 8, width, 3, 1, 1), nn.Conv2d(width, width, 5, 1, 2),
                                      nn.Conv2d(width, width, 3, 1, 1)])
        self.key = nn.Conv2d(width, 8 * 16, 1)
        self.query = nn.Linear(5 * width, 8 * 16)
        self.out = nn.Conv2d(width, 1, 1)

    def features(self, pictures: Tensor) -> Tensor:
        """Return (B, width, size / 4, size / 4) of pictures (B, 3, size, size) in -1..1."""
        for layer in self.trunk:
            pictures = F.gelu(layer(pictures))
        return pictures

    def describe(self, references: Tensor) -> Tensor:
        """Return (B, 5 width): mean and peak of the reference's features, and the mean of deeper ones."""
        near = self.features(references)
        solid = F.avg_pool2d((references.abs().amax(1, keepdim=True) > 0.02).float(), 4)
        mean = (near * solid).sum((2, 3)) / solid.sum((2, 3)).clamp(min=1)
        deep = F.gelu(self.deeper(near))
        return torch.cat([mean, near.amax((2, 3)), deep.mean((2, 3)), (near * near * solid).mean((2, 3))], dim=1)

    def forward(self, frames: Tensor, references: Tensor) -> Tensor:
        """Return mask logits (B, size / 4, size / 4) for frames and reference canvases (B, 3, size, size)."""
        near = self.features(frames)
        described = self.describe(references)
        deep = F.interpolate(F.gelu(self.deeper(near)), scale_factor=2)
        scale, shift = self.steer(described)[..., None, None].chunk(2, dim=1)
        matches = (self.key(near).unflatten(1, (8, 16)) * self.query(described).view(-1, 8, 16, 1, 1)).sum(2)
        hidden = torch.cat([near, deep * (1 + scale) + shift, matches], dim=1)
        for layer in self.compare:
            hidden = F.gelu(layer(hidden))
        return self.out(hidden).squeeze(1)


@dataclass(frozen=True)
class Sighting:
    """Per frame, whether the subject is seen, and the first and last such frame (None when never)."""

    present: np.ndarray
    span: timeline.Frames | None


def load_matcher() -> Matcher:
    """Return the trained matcher."""
    matcher = Matcher()
    matcher.load_state_dict(load_file(WEIGHTS))
    return matcher.eval()


@torch.no_grad()
def find(matcher: Matcher, frames: np.ndarray, reference: np.ndarray) -> Sighting:
    """Say when the subject of an RGBA reference is seen in a video (frames, height, width, 3) uint8.

    A single frame with it between two without, or the other way round, is taken for a slip.
    """
    canvas = _pixels(media.reference_canvas(Image.fromarray(reference), SIZE, SIZE)[None])
    drawn = matcher(_pixels(frames), canvas.expand(len(frames), -1, -1, -1)).sigmoid().mean((1, 2))
    seen = F.pad((drawn > PRESENT_SHARE).float()[None, None], (1, 1), mode="replicate")
    present = (F.avg_pool1d(seen, 3, 1)[0, 0] > 0.5).numpy()
    where = np.flatnonzero(present)
    return Sighting(present, (int(where[0]), int(where[-1])) if len(where) else None)


def train(steps: int, batch_clips: int = 12, frames_per_clip: int = 4) -> Matcher:
    """Train on toyworld's training subjects: each frame with its own subjects' references, and with a stranger's."""
    torch.manual_seed(0)
    matcher = Matcher()
    optimizer = torch.optim.AdamW(matcher.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps, pct_start=0.1)
    random = np.random.default_rng(0)
    for step in range(steps):
        clips = [render_clip("train", 1_000_000 + step * batch_clips + row, WorldConfig(), 1 + row % 3)
                 for row in range(batch_clips)]
        frames, references, masks = _pairs(clips, frames_per_clip, random)
        frames = _softened(frames, random)
        with torch.autocast("cpu", torch.bfloat16):
            logits = matcher(frames, references).float()
        loss = F.binary_cross_entropy_with_logits(logits, masks) + _dice(logits, masks)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if (step + 1) % 100 == 0:
            print(f"step {step + 1}/{steps}  loss {loss.item():.4f}", flush=True)
    return matcher.eval()


def _pairs(clips: list[Clip], frames_per_clip: int, random: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    frames, references, masks = [], [], []
    for row, clip in enumerate(clips):
        stranger = clips[row - 1].subjects[0]
        chosen = random.choice(len(clip.frames), frames_per_clip, replace=False)
        for number, subject in enumerate([*clip.subjects, stranger]):
            canvas = media.reference_canvas(Image.fromarray(subject.references[0]), SIZE, SIZE)
            references += [canvas] * frames_per_clip
            frames += list(clip.frames[chosen])
            own = number < len(clip.subjects)
            masks += list(clip.masks[number, chosen] if own else np.zeros_like(clip.masks[0, chosen]))
    target = F.avg_pool2d(torch.from_numpy(np.stack(masks)).float()[:, None], 4).squeeze(1)
    return _pixels(np.stack(frames)), _pixels(np.stack(references)), target


def _softened(frames: Tensor, random: np.random.Generator) -> Tensor:
    """Blur half of the batches slightly, as a VAE would."""
    if random.random() < 0.5:
        return frames
    small = F.interpolate(frames, scale_factor=float(random.uniform(0.5, 0.9)), mode="bilinear", antialias=True)
    return F.interpolate(small, frames.shape[-2:], mode="bilinear")


def _dice(logits: Tensor, masks: Tensor) -> Tensor:
    drawn = logits.sigmoid()
    overlap = 2 * (drawn * masks).sum((1, 2)) + 1
    return (1 - overlap / (drawn.sum((1, 2)) + masks.sum((1, 2)) + 1)).mean()


def _pixels(pictures: np.ndarray) -> Tensor:
    return (torch.from_numpy(pictures).permute(0, 3, 1, 2).float() - media.NEUTRAL) / 128


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    save_file(train(arguments.steps).state_dict(), WEIGHTS)
