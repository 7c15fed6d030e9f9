"""Where the words of a clip are, and where they go: boxes, then tracks, by whatever models are given.

`find` and `follow` go one after the other; `see_all` does the work of both with a model that finds and follows in one.
Masks become text frame by frame: what a long clip takes is its tracks, not its pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from alchemint.annotate.clip import Clip, Followed, Found
from alchemint.annotate.figures import Looks, figures_of, identities
from alchemint.annotate.recipe import Perception
from alchemint.masks import Corners, box_of, mask_text
from alchemint.perception.sightings import Box, Comparer, Finder, Follower, Frames, Mask, Sought
from alchemint.perception.watcher import find_anchors, told_apart
from alchemint.records import Dropped, Track

if TYPE_CHECKING:
    from alchemint.perception.sam3 import Sam3Spotter

NOT_FOUND, UNLIKE = "not found", "likeness"

_LONG_ENOUGH = 0.25


def find(clip: Clip, video: Frames, finder: Finder, comparer: Comparer | None, options: Perception) -> Clip:
    """Return the clip with the box from which each of its words is to be followed.

    Words without a box, and those whose best box is less like them than `options.min_likeness`, go to `dropped`. Only
    the frames that `frames_to_search` names are read.
    """
    sought = [Sought(word) for word in clip.words]
    anchors, likenesses = find_anchors(video, sought, finder, comparer, options.num_search_frames, apart=True)
    found = [Found(word, anchor, likeness)
             for word, anchor, likeness in zip(clip.words, anchors, likenesses, strict=True) if anchor is not None]
    lost = [Dropped(word=word, filter=NOT_FOUND)
            for word, anchor in zip(clip.words, anchors, strict=True) if anchor is None]
    alike, unlike = _alike(found, options.min_likeness)
    return replace(clip, found=tuple(alike), dropped=(*clip.dropped, *lost, *unlike))


def follow(clip: Clip, video: Frames, follower: Follower, comparer: Comparer | None = None) -> Clip:
    """Return the clip with all that was found followed through its frames, and the figures that filters ask for.

    Without a comparer the figure "identity" is left out.
    """
    growing = [_Growing.of(video, one.anchor.frame) for one in clip.found]
    masks = follower.follow(video, [one.anchor for one in clip.found], [Sought(one.word) for one in clip.found])
    for mask in masks:
        growing[mask.subject].take(mask, video)
    return replace(clip, followed=_followed(clip.found, growing, comparer, video))


def see_all(clip: Clip, video: Frames, spotter: "Sam3Spotter", comparer: Comparer | None, options: Perception) -> Clip:
    """Return the clip with its words found and followed by a model that does both, and figures as `follow` has them.

    Of a word's instances the one whose first good crop is most like the word is kept, in the way of `find`; without a
    comparer the one of which the detector was surest. Instances that are seen on less than a quarter as many frames as
    the word's longest are passed over.
    """
    recent = _Recent(video, spotter.delay + 1)
    instances: dict[int, _Instance] = {}
    for spotted in spotter.see(recent, clip.words):
        number = spotted.mask.subject
        if number not in instances:
            instances[number] = _Instance(spotted.word, spotted.detection, _Growing.of(video, spotted.mask.frame))
        instances[number].growing.take(spotted.mask, recent)
    by_word = _chosen(list(instances.values()), clip.words, comparer)
    lost = [Dropped(word=word, filter=NOT_FOUND) for word in clip.words if word not in by_word]
    alike, unlike = _alike([found for found, _ in by_word.values()], options.min_likeness)
    growing = [by_word[found.word][1] for found in alike]
    return replace(clip, found=tuple(alike), followed=_followed(alike, growing, comparer, video),
                   dropped=(*clip.dropped, *lost, *unlike))


@dataclass
class _Growing:
    """A track that grows as masks come, frame by frame in any order; frames that never come don't show the subject."""

    areas: list[int]
    boxes: list[Corners | None]
    texts: list[str]
    scores: list[float]
    looks: Looks

    @classmethod
    def of(cls, video: Frames, anchor: int) -> "_Growing":
        num_frames, height, width = video.shape[:3]
        nothing = mask_text(np.zeros((height, width), bool))
        return cls([0] * num_frames, [None] * num_frames, [nothing] * num_frames, [0.0] * num_frames,
                   Looks(num_frames, anchor))

    def take(self, mask: Mask, video: Frames) -> None:
        self.scores[mask.frame] = mask.score
        box = box_of(mask.mask)
        if box is None:
            return
        self.areas[mask.frame] = int(mask.mask.sum())
        self.boxes[mask.frame] = box
        self.texts[mask.frame] = mask_text(mask.mask)
        self.looks.see(mask.frame, video[mask.frame], mask.mask, box)

    def track(self) -> Track:
        return Track(areas=tuple(self.areas), boxes=tuple(self.boxes), masks=tuple(self.texts),
                     scores=tuple(self.scores))


@dataclass(frozen=True)
class _Instance:
    word: int
    detection: float
    growing: _Growing

    @property
    def num_seen(self) -> int:
        return sum(area > 0 for area in self.growing.areas)


class _Recent:
    """A video of which the last few frames are kept, for a model that answers late, and who looks at what it saw."""

    def __init__(self, video: Frames, num_kept: int) -> None:
        self.shape = video.shape
        self._video = video
        self._num_kept = num_kept
        self._kept: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self._video)

    def __getitem__(self, number: int) -> np.ndarray:
        if number not in self._kept:
            self._kept[number] = self._video[number]
            if len(self._kept) > self._num_kept:
                del self._kept[next(iter(self._kept))]
        return self._kept[number]


def _chosen(instances: Sequence[_Instance], words: Sequence[str],
            comparer: Comparer | None) -> dict[str, tuple[Found, _Growing]]:
    """Return the instance of each word that has any."""
    crops = [one.growing.looks.first for one in instances]
    good = np.array([[one.detection] * len(words) for one in instances])
    alike = None
    if comparer is not None and instances:
        pictures = comparer.embed_pictures([crop.picture for crop in crops if crop is not None])
        alike = pictures @ comparer.embed_words(words).T
        good = told_apart(alike, comparer.sharpness)
    chosen = {}
    for word, text in enumerate(words):
        own = [number for number, one in enumerate(instances) if one.word == word]
        longest = max((instances[number].num_seen for number in own), default=0)
        own = [number for number in own if instances[number].num_seen >= _LONG_ENOUGH * longest]
        if own:
            best = max(own, key=lambda number: good[number, word])
            crop = crops[best]
            assert crop is not None
            left, top, right, bottom = map(float, crop.box)
            anchor = Box(crop.frame, (left, top, right, bottom), instances[best].detection)
            chosen[text] = (Found(text, anchor, None if alike is None else float(alike[best, word])),
                            instances[best].growing)
    return chosen


def _followed(found: Sequence[Found], growing: Sequence[_Growing], comparer: Comparer | None,
              video: Frames) -> tuple[Followed, ...]:
    size = video.shape[2], video.shape[1]
    kept = identities([one.looks for one in growing], comparer)
    tracks = [one.track() for one in growing]
    return tuple(Followed(one, track, figures_of(track, part.looks, identity, size))
                 for one, track, part, identity in zip(found, tracks, growing, kept, strict=True))


def _alike(found: Sequence[Found], least: float) -> tuple[list[Found], list[Dropped]]:
    """Return those that are like their words, and what is to be said of the others."""
    alike = [one for one in found if one.likeness is None or one.likeness >= least]
    unlike = [Dropped(word=one.word, filter=UNLIKE, value=round(one.likeness, 4), threshold=least)
              for one in found if one.likeness is not None and one.likeness < least]
    return alike, unlike
