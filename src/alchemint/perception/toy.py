"""Perception for small synthetic videos such as the toyworld's: a network that compares frames with references.

Frame and reference go through one convolutional trunk, the reference at about the size that subjects have in frames,
and every place of the frame looks for its like in the reference. All that are sought compete for each place, so that
of two look-alikes the likelier one gets it. The words are not looked at.

Shapes: F frames, N sought, frames SIZE x SIZE pixels, h x w = a quarter of that.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from alchemint import media
from alchemint.perception.clip import ClipComparer
from alchemint.perception.sightings import Box, Sought, bounding_box
from alchemint.perception.watcher import Likeness, Watcher

SIZE, CANVAS = 64, 44
_STRIDE = 4


class Matcher(nn.Module):
    """(frames, references) -> logits of each reference's subject at each place."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.stem = nn.ModuleList([nn.Conv2d(3, width // 2, 5, 2, 2), nn.Conv2d(width // 2, width, 3, 2, 1)])
        self.trunk = nn.ModuleList([nn.Conv2d(width, width, 3, 1, 1) for _ in range(2)])
        self.key = nn.Conv2d(width, width, 1)
        self.temperature = nn.Parameter(torch.tensor(2.0))
        self.join = nn.Conv2d(4 * width + 1, width, 1)
        self.compare = nn.ModuleList([nn.Conv2d(width, width, 3, 1, dilation, dilation=dilation)
                                      for dilation in (1, 2, 1)])
        self.out = nn.Conv2d(width, 1, 1)
        assert self.out.bias is not None
        nn.init.constant_(self.out.bias, -2.5)

    def features(self, pictures: Tensor) -> Tensor:
        """Return (B, width, height / 4, width / 4) of pictures (B, 3, height, width) as `as_pixels` makes them."""
        for layer in self.stem:
            pictures = F.gelu(layer(pictures))
        for layer in self.trunk:
            pictures = pictures + F.gelu(layer(pictures))
        return pictures

    def forward(self, frames: Tensor, references: Tensor, frame_of: Tensor, reference_of: Tensor) -> Tensor:
        """Return logits (pairs, h, w) of pairs of a frame and a reference, given by their numbers.

        frames (F, 3, SIZE, SIZE), references (N, 3, CANVAS, CANVAS), frame_of and reference_of (pairs).
        """
        seen, sought = self.features(frames), self.features(references)
        solid = F.avg_pool2d((references.abs().amax(1, keepdim=True) > 0.02).float(), _STRIDE).flatten(1) > 0.3
        seen_keys, sought_keys = (F.normalize(self.key(features).flatten(2), dim=1) for features in (seen, sought))
        seen = seen[frame_of]
        likeness = seen_keys[frame_of].transpose(1, 2) @ sought_keys[reference_of]
        likeness = likeness.masked_fill(~solid[reference_of].unsqueeze(1), -2.0)
        attention = (likeness * self.temperature.exp()).softmax(-1)
        found = (sought.flatten(2)[reference_of] @ attention.transpose(1, 2)).view_as(seen)
        best = likeness.amax(-1).view(len(seen), 1, *seen.shape[-2:])
        hidden = F.gelu(self.join(torch.cat([seen, found, seen * found, (seen - found).abs(), best], dim=1)))
        for layer in self.compare:
            hidden = hidden + F.gelu(layer(hidden))
        return self.out(hidden).squeeze(1)


def shares(logits: Tensor) -> Tensor:
    """Return which share of each place each of the sought has, (N, ...): a softmax with "none of them" at 0."""
    none = torch.zeros_like(logits[:1])
    return torch.cat([none, logits]).softmax(0)[1:]


@dataclass(frozen=True)
class MatchingSight:
    """A finder and a follower by the same network.

    A subject is seen in a run of frames in which its share of some place is above `faint`, if in at least
    `num_sure_frames` of them it is above `sure` in at least `sure_area` of the frame. So it is followed into the frames
    where it fades or is half hidden, and what looks like it here and there for a moment is not taken for it. A single
    frame that differs from both of its neighbours is taken for a slip.
    """

    matcher: Matcher
    sure: float = 0.7
    faint: float = 0.15
    num_sure_frames: int = 3
    sure_area: float = 1 / 128

    def find(self, frames: np.ndarray, sought: Sought) -> list[Box]:
        """Return at most one box a frame: around all that surely looks like the first reference.

        Raises ValueError when `sought` has no reference.
        """
        drawn = self._draw(frames, [sought])[0]
        return [Box(frame, bounding_box(drawn[frame] > self.sure), float(drawn[frame].max()))
                for frame in range(len(frames)) if drawn[frame].max() > self.sure]

    def follow(self, video: np.ndarray, anchors: Sequence[Box], sought: Sequence[Sought]) -> np.ndarray:
        """Return where each is seen, (N, F, height, width) bool. It is looked for anew on each frame."""
        if not sought:
            return np.zeros((0, *video.shape[:3]), bool)
        return np.stack([self._runs(drawn) for drawn in self._draw(video, sought)])

    def _runs(self, drawn: np.ndarray) -> np.ndarray:
        """Return the masks of the runs that count, of one subject's shares (F, height, width)."""
        peaks = drawn.max((1, 2))
        steady = _without_slips(peaks > self.faint)
        sure = (drawn > self.sure).mean((1, 2)) >= self.sure_area
        masks = drawn > np.maximum(peaks / 2, self.faint)[:, None, None]
        present = np.zeros(len(drawn), bool)
        numbers = np.cumsum(np.diff(steady, prepend=False) & steady) * steady
        for number in range(1, int(numbers.max(initial=0)) + 1):
            run = numbers == number
            present |= run & (sure[run].sum() >= self.num_sure_frames)
        for frame in np.flatnonzero(present & (peaks <= self.faint)):
            masks[frame] = masks[frame - 1] | masks[frame + 1]
        return masks & present[:, None, None]

    @torch.inference_mode()
    def _draw(self, video: np.ndarray, sought: Sequence[Sought]) -> np.ndarray:
        """Return shares (N, F, height, width) of a video of any size."""
        for one in sought:
            if not one.references:
                raise ValueError(f'"{one.word}" has no reference picture; the toy perception compares pictures')
        frames = F.interpolate(as_pixels(video), (SIZE, SIZE), mode="bilinear", antialias=True)
        canvases = as_pixels(np.stack([reference_canvas(one.references[0]) for one in sought]))
        frame_of, reference_of = (index.flatten() for index in torch.meshgrid(
            torch.arange(len(frames)), torch.arange(len(canvases)), indexing="ij"))
        logits = self.matcher(frames, canvases, frame_of, reference_of)
        drawn = shares(logits.unflatten(0, (len(frames), len(canvases))).transpose(0, 1))
        return np.asarray(F.interpolate(drawn, video.shape[1:3], mode="nearest"))


def load_toy_perception(folder: Path) -> tuple[Watcher, ClipComparer]:
    """Load the matcher, and the tiny CLIP that tells what was seen, from a folder that the training script wrote."""
    from safetensors.torch import load_file
    from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

    settings = json.loads((folder / "perception.json").read_text(encoding="utf-8"))
    matcher = Matcher()
    matcher.load_state_dict(load_file(folder / "matcher.safetensors"))
    sight = MatchingSight(matcher.eval())
    clip = ClipComparer(CLIPModel.from_pretrained(folder / "clip").eval(),
                        AutoTokenizer.from_pretrained(folder / "clip"),
                        CLIPImageProcessorPil.from_pretrained(folder / "clip"), prompt="{}")
    return Watcher(sight, sight, likeness=Likeness(clip, settings["least_likeness"]), num_search_frames=1_000), clip


def reference_canvas(reference: np.ndarray) -> np.ndarray:
    """Lay a picture, RGBA by what of it is visible, on (CANVAS, CANVAS, 3) uint8 grey with a margin."""
    return media.reference_canvas(Image.fromarray(reference), CANVAS, CANVAS, share=0.8)


def as_pixels(pictures: np.ndarray) -> Tensor:
    """Convert uint8 (B, height, width, 3) to (B, 3, height, width), about -1..1, the canvas's grey being 0."""
    return (torch.from_numpy(pictures).permute(0, 3, 1, 2).float() - media.NEUTRAL) / 128


def _without_slips(present: np.ndarray) -> np.ndarray:
    """Return (F) bool with lone frames made like their neighbours."""
    padded = np.pad(present, 1, mode="edge").astype(int)
    return padded[:-2] + padded[1:-1] + padded[2:] >= 2
