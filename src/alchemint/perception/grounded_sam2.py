"""The paper's perception: Grounding DINO on several frames, CLIP picks the box, SAM 2 follows it both ways."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from alchemint.perception.clip import ClipComparer
from alchemint.perception.sam2 import Sam2Follower
from alchemint.perception.sightings import Box, Finder, Follower, Sought, crop, frames_to_search

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
class GroundedSam2:
    """Finds words on a few frames, picks the likeliest box, and follows it through the video."""

    finder: Finder
    comparer: ClipComparer
    follower: Follower
    num_search_frames: int = 8

    def look(self, video: np.ndarray, sought: Sequence[Sought]) -> Sightings:
        """Look for all `sought` in video (frames, height, width, 3) uint8."""
        searched = frames_to_search(len(video), self.num_search_frames)
        anchors: list[Box | None] = []
        for one in sought:
            boxes = [replace(box, frame=searched[box.frame]) for box in self.finder.find(video[searched], one)]
            anchors.append(self._likeliest(video, boxes, one.word))
        found = [anchor for anchor in anchors if anchor is not None]
        masks = np.zeros((len(anchors), *video.shape[:3]), bool)
        masks[[anchor is not None for anchor in anchors]] = self.follower.follow(video, found)
        return Sightings(masks, tuple(anchors))

    def _likeliest(self, video: np.ndarray, boxes: list[Box], word: str) -> Box | None:
        """Return the box whose content is most like the word, by CLIP."""
        if not boxes:
            return None
        pictures = self.comparer.embed_pictures([crop(video[box.frame], box.corners) for box in boxes])
        return boxes[int(np.argmax(pictures @ self.comparer.embed_words([word])[0]))]


def load(detector: str | Path = DETECTOR, comparer: str | Path = COMPARER, tracker: str | Path = TRACKER,
         device: str = "cpu") -> GroundedSam2:
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
    return GroundedSam2(finder, clip, Sam2Follower(Sam2VideoModel.from_pretrained(tracker).to(device).eval()))
