"""Tells in which frames a subject is seen, from its reference picture: a small network that compares the two.

Frame and reference go through one convolutional trunk, the reference at about the size that subjects have in frames,
and every place of the frame looks for its like in the reference. The network draws where the subject is; a frame shows
the subject when enough of it is drawn. It learns on toyworld's training subjects, and matching, not naming, is all
that it can learn: every instance is re-coloured. How right it is on never-seen subjects is printed by toy_control.py
first.

    python benchmarks/matcher.py        # train it (half an hour on one core) into benchmarks/matcher.safetensors

Shapes: B pairs of a frame, size x size pixels, and a reference canvas.
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
SIZE, CANVAS = 64, 44
PRESENT_SHARE = 0.004
"""Share of the frame that must be drawn for the subject to count as seen."""


class Matcher(nn.Module):
    """(frames, references) -> logits of the subject's mask at a quarter of the resolution.

    Every place of a frame looks for its like among the reference's places; what it finds, beside what it is, tells
    whether it shows the subject.
    """

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.trunk = nn.ModuleList([nn.Conv2d(3, width, 5, 2, 2), nn.Conv2d(width, width, 3, 2, 1),
                                    nn.Conv2d(width, width, 3, 1, 1)])
        self.key = nn.Conv2d(width, width, 1)
        self.temperature = nn.Parameter(torch.tensor(2.0))
        self.compare = nn.ModuleList([nn.Conv2d(4 * width + 1, width, 3, 1, 1), nn.Conv2d(width, width, 3, 1, 1),
                                      nn.Conv2d(width, width, 3, 1, 2, dilation=2), nn.Conv2d(width, width, 3, 1, 1)])
        self.out = nn.Conv2d(width, 1, 1)
        nn.init.constant_(self.out.bias, -2.5)

    def features(self, pictures: Tensor) -> Tensor:
        """Return (B, width, height / 4, width / 4) of pictures (B, 3, height, width) in -1..1."""
        for layer in self.trunk:
            pictures = F.gelu(layer(pictures))
        return pictures

    def forward(self, frames: Tensor, references: Tensor) -> Tensor:
        """Return mask logits (B, size / 4, size / 4) for frames (B, 3, size, size) and their reference canvases."""
        seen, sought = self.features(frames), self.features(references)
        solid = F.avg_pool2d((references.abs().amax(1, keepdim=True) > 0.02).float(), 4).flatten(1) > 0.3
        likeness = torch.einsum("bcp,bcr->bpr", F.normalize(self.key(seen).flatten(2), dim=1),
                                F.normalize(self.key(sought).flatten(2), dim=1))
        likeness = likeness.masked_fill(~solid.unsqueeze(1), -2.0)
        attention = (likeness * self.temperature.exp()).softmax(-1)
        found = torch.einsum("bpr,bcr->bcp", attention, sought.flatten(2)).view_as(seen)
        best = likeness.amax(-1).view(len(seen), 1, *seen.shape[-2:])
        hidden = torch.cat([seen, found, seen * found, (seen - found).abs(), best], dim=1)
        hidden = F.gelu(self.compare[0](hidden))
        for layer in self.compare[1:]:
            hidden = hidden + F.gelu(layer(hidden))
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
    canvas = as_pixels(reference_canvas(reference)[None])
    drawn = matcher(as_pixels(frames), canvas.expand(len(frames), -1, -1, -1)).sigmoid().mean((1, 2))
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
            canvas = reference_canvas(subject.references[0])
            references += [canvas] * frames_per_clip
            frames += list(clip.frames[chosen])
            own = number < len(clip.subjects)
            masks += list(clip.masks[number, chosen] if own else np.zeros_like(clip.masks[0, chosen]))
    target = F.avg_pool2d(torch.from_numpy(np.stack(masks)).float()[:, None], 4).squeeze(1)
    return as_pixels(np.stack(frames)), as_pixels(np.stack(references)), target


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


def reference_canvas(reference: np.ndarray) -> np.ndarray:
    """Lay an RGBA reference on the matcher's canvas, (CANVAS, CANVAS, 3) uint8."""
    return media.reference_canvas(Image.fromarray(reference), CANVAS, CANVAS)


def as_pixels(pictures: np.ndarray) -> Tensor:
    """Convert uint8 (B, height, width, 3) to (B, 3, height, width), about -1..1, the canvas's grey being 0."""
    return (torch.from_numpy(pictures).permute(0, 3, 1, 2).float() - media.NEUTRAL) / 128


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    save_file(train(arguments.steps).state_dict(), WEIGHTS)
