"""Looking for subjects in a video: find them on a few frames, pick the likeliest place, follow it both ways.

With Grounding DINO, CLIP and SAM 2 (`load_grounded_sam2`) this is the paper's perception (AlcheMinT, arXiv 2512.10943).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from alchemint.perception.clip import ClipComparer
from alchemint.perception.sam2 import Sam2Follower
from alchemint.perception.sightings import (
    Box,
    Finder,
    Follower,
    Sought,
    as_crop,
    bounding_box,
    crop,
    frames_to_search,
)

DETECTOR, COMPARER, TRACKER = (
    "IDEA-Research/grounding-dino-base", "openai/clip-vit-large-patch14", "facebook/sam2.1-hiera-large")


@dataclass(frozen=True)
class Sightings:
    """Where the sought were seen: masks (sought, frames, height, width) bool, and the box each was followed from.

    One that was never found has no anchor and empty masks.
    """

    masks: np.ndarray
    anchors: tuple[Box | None, ...]


@dataclass(frozen=True)
class Likeness:
    """What was followed is dropped when it is, by `comparer`, less like the references than `least` (mean cosine)."""

    comparer: ClipComparer
    least: float
    num_frames: int = 12

    def holds(self, video: np.ndarray, masks: np.ndarray, sought: Sought) -> bool:
        """Tell whether what masks (frames, height, width) show, on a few frames, is like the references."""
        shown = np.flatnonzero(masks.any((1, 2)))
        shown = shown[frames_to_search(len(shown), self.num_frames)]
        seen = self.comparer.embed_pictures([crop(video[frame], bounding_box(masks[frame])) for frame in shown])
        views = self.comparer.embed_pictures([as_crop(reference) for reference in sought.references])
        return bool((seen @ views.T).max(1).mean() >= self.least)


@dataclass(frozen=True)
class Watcher:
    """Finds the sought on a few frames, picks the likeliest box, and follows it through the video.

    The likeliest box is the one whose content is most like the word by `comparer`; without one, the finder's surest.
    `likeness` has the last word on what was followed, where there are references.
    """

    finder: Finder
    follower: Follower
    comparer: ClipComparer | None = None
    likeness: Likeness | None = None
    num_search_frames: int = 8

    def look(self, video: np.ndarray, sought: Sequence[Sought]) -> Sightings:
        """Look for all `sought` in video (frames, height, width, 3) uint8."""
        searched = frames_to_search(len(video), self.num_search_frames)
        anchors: list[Box | None] = []
        for one in sought:
            boxes = [replace(box, frame=searched[box.frame]) for box in self.finder.find(video[searched], one)]
            anchors.append(self._likeliest(video, boxes, one.word))
        found = [(anchor, one) for anchor, one in zip(anchors, sought, strict=True) if anchor is not None]
        masks = np.zeros((len(anchors), *video.shape[:3]), bool)
        masks[[anchor is not None for anchor in anchors]] = self.follower.follow(
            video, [anchor for anchor, _ in found], [one for _, one in found])
        if self.likeness is not None:
            for one, seen in zip(sought, masks, strict=True):
                if one.references and seen.any() and not self.likeness.holds(video, seen, one):
                    seen[:] = False
        return Sightings(masks, tuple(anchors))

    def _likeliest(self, video: np.ndarray, boxes: list[Box], word: str) -> Box | None:
        if not boxes:
            return None
        if self.comparer is None:
            return max(boxes, key=lambda box: box.score)
        pictures = self.comparer.embed_pictures([crop(video[box.frame], box.corners) for box in boxes])
        return boxes[int(np.argmax(pictures @ self.comparer.embed_words([word])[0]))]


def load_grounded_sam2(detector: str | Path = DETECTOR, comparer: str | Path = COMPARER, tracker: str | Path = TRACKER,
                       device: str = "cpu") -> Watcher:
    """Load the three models from folders or the Hugging Face hub.

    Raises OSError with transformers' own advice when one can't be had.
    """
    from transformers import (
        AutoTokenizer,
        CLIPImageProcessorPil,
        CLIPModel,
        GroundingDinoForObjectDetection,
        GroundingDinoImageProcessorPil,
        Sam2VideoModel,
    )

    from alchemint.perception.grounding_dino import GroundingDinoFinder

    finder = GroundingDinoFinder(
        GroundingDinoForObjectDetection.from_pretrained(detector).to(device).eval(),
        AutoTokenizer.from_pretrained(detector), GroundingDinoImageProcessorPil.from_pretrained(detector))
    clip = ClipComparer(CLIPModel.from_pretrained(comparer).to(device).eval(),
                        AutoTokenizer.from_pretrained(comparer), CLIPImageProcessorPil.from_pretrained(comparer))
    follower = Sam2Follower(Sam2VideoModel.from_pretrained(tracker).to(device).eval())
    return Watcher(finder, follower, clip)
