"""Perception for small synthetic videos such as the toyworld's: what `matcher` sees, made boxes and masks.

Shapes: V videos, F frames, N sought, P features of each, h x w places of a frame.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from alchemint.perception import TOY_FOLDER
from alchemint.perception.clip import ClipComparer
from alchemint.perception.matcher import SIZE, Looks, Matcher, as_pixels, reference_canvas, shares
from alchemint.perception.sightings import Box, Frames, Mask, Sought, bounding_box
from alchemint.perception.watcher import Likeness, Watcher

_MOST_THINGS = 6
_SPECK = 1 / 300
"""Things that fill less of a frame are left out when all are looked for."""


@dataclass(frozen=True)
class MatchingSight:
    """A finder and a follower by the same network.

    Who has references is looked for by the first of them. Words are not understood: who has none may be anything that
    is found, of which a comparer picks, and is followed by the looks at the anchor.

    Views of its own, found on the way, are added to the looks of who is followed without references.

    A subject is seen in a run of frames in which its share of some place is above `faint`, if in at least
    `num_sure_frames` of them it is above `sure` in at least `sure_area` of the frame. So it is followed into the frames
    where it fades or is half hidden, and what looks like it here and there for a moment is not taken for it. A single
    frame that differs from both of its neighbours is taken for a slip.
    """

    matcher: Matcher
    sure: float = 0.7
    faint: float = 0.25
    num_sure_frames: int = 3
    sure_area: float = 1 / 256
    num_views: int = 3
    _last: list[Any] = field(default_factory=list, repr=False, compare=False)
    """The frames on which everything was looked for last, and what was found: the same for all words."""

    def find(self, frames: np.ndarray, sought: Sought) -> list[Box]:
        """Return a box a frame around all that surely looks like the sought's first reference; without a reference,
        boxes around all things, for a comparer to pick from. Frames follow each other."""
        small = _fitted(frames)[:, None]
        if sought.references:
            drawn = _enlarged(self._draw(small, self._looks([sought.references[0]]))[:, 0, 0], frames.shape[1:3])
            return [Box(frame, bounding_box(one > self.sure), float(one.max()))
                    for frame, one in enumerate(drawn) if one.max() > self.sure]
        if not self._last or self._last[0] is not frames:
            self._last[:] = frames, self._everything(frames, small[:, 0])
        boxes: list[Box] = self._last[1]
        return boxes

    def _everything(self, frames: np.ndarray, small: Tensor) -> list[Box]:
        """Return boxes around all things on frames (F, height, width, 3), `small` as the matcher takes them.

        First come those that stand alone. Then things are explained away, one after the other: what looks like one of
        them is taken out of all frames, so that others come apart which were hidden behind it or touched it.
        """
        drawn = self._draw(small[:, None], self.matcher.looks_of_anything())[:, 0, 0]
        things = [(frame, thing, drawn) for frame in range(len(drawn)) for thing in _things(drawn[frame])]
        explained = np.zeros_like(drawn)
        looks: Looks | None = None
        of_each: np.ndarray = drawn[:0]
        for _ in range(_MOST_THINGS):
            left = [(frame, thing) for frame in range(len(drawn))
                    for thing in _things(np.where(explained[frame] < 0.3, drawn[frame], 0.0))]
            if len(left) < 2:
                break
            # Neither the largest, which may be several in one, nor the smallest, which may be a part.
            frame, thing = sorted(left, key=lambda one: int(one[1].sum()))[len(left) // 2]
            mask = _enlarged(thing[None].astype(np.float32), frames.shape[1:3])[0] > 0.5
            new = self._looks([np.dstack([frames[frame], np.uint8(255) * mask])])
            looks = new if looks is None else Looks(*(torch.cat(parts) for parts in zip(looks, new, strict=True)))
            of_each = self._draw(small[None], looks)[0]
            explained = of_each.max(0)
        things += [(frame, thing, one) for one in of_each for frame in range(len(one)) for thing in _things(one[frame])]
        boxes = []
        for frame, thing, shown in things:
            mask = _enlarged(thing[None].astype(np.float32), frames.shape[1:3])[0] > 0.5
            if mask.any():
                boxes.append(Box(frame, bounding_box(mask), float(shown[frame][thing].mean())))
        return boxes

    def follow(self, video: Frames, anchors: Sequence[Box], sought: Sequence[Sought]) -> Iterator[Mask]:
        """Yield where each is seen, which is looked for anew on each frame; the score is by how much the share of its
        best place is above `faint`."""
        if not sought:
            return
        pictures = [one.references[0] if one.references else self._cut_out(video[anchor.frame], anchor)
                    for anchor, one in zip(anchors, sought, strict=True)]
        small = torch.cat([_fitted(video[number][None]) for number in range(len(video))])[None]
        looks = self._looks(pictures)
        drawn_of = self._draw(small, looks)[0]
        if not any(one.references for one in sought):
            drawn_of = self._draw(small, self._with_views(looks, video, drawn_of))[0]
        for subject, drawn in enumerate(drawn_of):
            peaks = drawn.max((1, 2))
            for frame, seen in enumerate(self._runs(drawn)):
                mask = _enlarged(seen[None], video.shape[1:3])[0] > 0.5
                yield Mask(subject, frame, mask, float(peaks[frame]) - self.faint)

    @torch.inference_mode()
    def _looks(self, pictures: Sequence[np.ndarray]) -> Looks:
        return self.matcher.looks_of_pictures(as_pixels(np.stack([reference_canvas(one) for one in pictures])))

    def _with_views(self, looks: Looks, video: Frames, drawn_of: np.ndarray) -> Looks:
        """Return the looks together with those of each subject on the frames where it is seen best, apart in time."""
        views = []
        for drawn in drawn_of:
            areas = (drawn > self.sure).sum((1, 2))
            parts = np.array_split(np.arange(len(drawn)), self.num_views)
            best = [int(part[areas[part].argmax()]) for part in parts if len(part)]
            masks = [_enlarged(drawn[[frame]], video.shape[1:3])[0] > 0.5 for frame in best]
            views.append([np.dstack([video[frame], np.uint8(255) * mask])
                          for frame, mask in zip(best, masks, strict=True)])
        more = [self._looks(pictures) for pictures in zip(*views, strict=True)]
        return Looks(torch.cat([looks.features, *(view.features for view in more)], 1),
                     torch.cat([looks.counts, *(view.counts for view in more)], 1))

    def _cut_out(self, frame: np.ndarray, anchor: Box) -> np.ndarray:
        """Return what stands in the anchor's box on its frame, RGBA."""
        left, top, right, bottom = (round(corner) for corner in anchor.corners)
        drawn = self._draw(_fitted(frame[None])[None], self.matcher.looks_of_anything())[0, 0]
        inside = np.zeros(frame.shape[:2], bool)
        inside[top:bottom, left:right] = True
        mask = inside & (_enlarged(drawn, frame.shape[:2])[0] > 0.5)
        return np.dstack([frame, np.uint8(255) * (mask if mask.any() else inside)])

    def _runs(self, drawn: np.ndarray) -> np.ndarray:
        """Return where a subject is, above 0.5, in the runs that count, given its shares (F, h, w)."""
        peaks = drawn.max((1, 2))
        steady = _without_slips(peaks > self.faint)
        sure = (drawn > self.sure).mean((1, 2)) >= self.sure_area
        seen = drawn / (2 * np.maximum(peaks / 2, self.faint))[:, None, None]
        present = np.zeros(len(drawn), bool)
        numbers = np.cumsum(np.diff(steady, prepend=False) & steady) * steady
        for number in range(1, int(numbers.max(initial=0)) + 1):
            run = numbers == number
            present |= run & (sure[run].sum() >= self.num_sure_frames)
        for frame in np.flatnonzero(present & (peaks <= self.faint)):
            seen[frame] = np.maximum(seen[frame - 1], seen[frame + 1])
        return np.asarray(seen * present[:, None, None])

    @torch.inference_mode()
    def _draw(self, videos: Tensor, looks: Looks) -> np.ndarray:
        """Return shares (V, N, F, SIZE / 2, SIZE / 2) of videos (V, F, 3, SIZE, SIZE), in all of which the same `looks`
        (N, P, width) are looked for."""
        everywhere = Looks(looks.features.expand(len(videos), -1, -1, -1), looks.counts.expand(len(videos), -1, -1))
        return np.asarray(shares(self.matcher(videos, everywhere).transpose(0, 1)).transpose(0, 1))


def _fitted(frames: np.ndarray) -> Tensor:
    """Return frames (F, height, width, 3) as the matcher takes them, (F, 3, SIZE, SIZE)."""
    return F.interpolate(as_pixels(frames), (SIZE, SIZE), mode="bilinear", antialias=True)


def _enlarged(drawn: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Return shares (F, h, w) at the size of a video, (F, height, width)."""
    return np.asarray(F.interpolate(torch.from_numpy(drawn)[:, None], tuple(size), mode="bilinear")[:, 0])


def _things(drawn: np.ndarray) -> list[np.ndarray]:
    """Return the masks (height, width) of the connected parts of shares (height, width), specks left out."""
    parts, count = ndimage.label(drawn > 0.5)
    return [mask for mask in (parts == number for number in range(1, count + 1)) if mask.mean() > _SPECK]


def load_toy_perception(folder: Path = TOY_FOLDER) -> tuple[Watcher, ClipComparer]:
    """Load the matcher, and the tiny CLIP that tells what was seen, from a folder that the training script wrote.

    They look for references. What they find without any is told apart by the comparer: `replace(watcher,
    comparer=clip)`.
    """
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


def _without_slips(present: np.ndarray) -> np.ndarray:
    """Return (F) bool with lone frames made like their neighbours."""
    padded = np.pad(present, 1, mode="edge").astype(int)
    return padded[:-2] + padded[1:-1] + padded[2:] >= 2
