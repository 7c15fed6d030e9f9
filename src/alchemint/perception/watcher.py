"""Looking for subjects in a video: find them on a few frames, pick the likeliest place, follow it both ways.

With Grounding DINO, CLIP and SAM 2 (`loading.load_grounded_sam2`) this is the paper's perception (AlcheMinT, arXiv
2512.10943).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from alchemint.perception.sightings import (
    Box,
    Comparer,
    Finder,
    Follower,
    Frames,
    Sought,
    as_crop,
    bounding_box,
    crop,
    frames_to_search,
    gathered,
)


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

    comparer: Comparer
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
    comparer: Comparer | None = None
    likeness: Likeness | None = None
    num_search_frames: int = 8

    def look(self, video: np.ndarray, sought: Sequence[Sought]) -> Sightings:
        """Look for all `sought` in video (frames, height, width, 3) uint8."""
        anchors, _ = find_anchors(video, sought, self.finder, self.comparer, self.num_search_frames)
        found = [(anchor, one) for anchor, one in zip(anchors, sought, strict=True) if anchor is not None]
        masks = np.zeros((len(anchors), *video.shape[:3]), bool)
        masks[[anchor is not None for anchor in anchors]] = gathered(self.follower.follow(
            video, [anchor for anchor, _ in found], [one for _, one in found]), len(found), video)
        if self.likeness is not None:
            for one, seen in zip(sought, masks, strict=True):
                if one.references and seen.any() and not self.likeness.holds(video, seen, one):
                    seen[:] = False
        return Sightings(masks, tuple(anchors))


def find_anchors(
    video: Frames, sought: Sequence[Sought], finder: Finder, comparer: Comparer | None, num_search_frames: int = 8,
    apart: bool = False,
) -> tuple[list[Box | None], list[float | None]]:
    """Return where each of the sought is best followed from, and how like its word that box is (cosine).

    Of the boxes on `num_search_frames` frames, spread over the video, it is the one whose content is most like the word
    by `comparer`; without one, the finder's surest. apart: what is more like another of the words sought is avoided,
    see `told_apart`. None stands for a word without a box, and for a likeness that nobody told.
    """
    searched = frames_to_search(len(video), num_search_frames)
    frames = np.stack([video[number] for number in searched])
    boxes = [finder.find(frames, one) for one in sought]
    if comparer is None:
        surest = [max(candidates, key=lambda box: box.score, default=None) for candidates in boxes]
        return [_of_video(box, searched) for box in surest], [None] * len(boxes)
    words = comparer.embed_words([one.word for one in sought])
    anchors: list[Box | None] = []
    likenesses: list[float | None] = []
    for word, candidates in enumerate(boxes):
        if not candidates:
            anchors.append(None)
            likenesses.append(None)
            continue
        pictures = comparer.embed_pictures([crop(frames[box.frame], box.corners) for box in candidates])
        alike = pictures @ words.T
        best = int(np.argmax(told_apart(alike, comparer.sharpness)[:, word] if apart else alike[:, word]))
        anchors.append(_of_video(candidates[best], searched))
        likenesses.append(float(alike[best, word]))
    return anchors, likenesses


_OWN_LIKENESS = 0.25
"""How much a picture's likeness to its word counts beside that word's share of it: little enough that words give way to
each other where another picture is nearly as good, too much for them to take just anything that is nobody else's."""


def told_apart(alike: np.ndarray, sharpness: float) -> np.ndarray:
    """Return how good each picture is for each word, (pictures, words), given their likenesses.

    A word's share of a picture is a softmax over the words, as the comparer was trained to tell them apart. To a single
    word the best picture is the likeliest.
    """
    logits = sharpness * alike.astype(np.float64)
    shares = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    return np.asarray(shares + _OWN_LIKENESS * logits)


def _of_video(box: Box | None, searched: list[int]) -> Box | None:
    return None if box is None else replace(box, frame=searched[box.frame])
