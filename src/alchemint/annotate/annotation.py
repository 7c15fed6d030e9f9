"""From a clip to its record: the stages of annotation as plain functions of a clip and of the models they need.

    caption -> name -> find -> follow -> judge -> record

The method is that of AlcheMinT's data (arXiv 2512.10943): a language model names the entities of the caption, Grounding
DINO looks for each on several frames, CLIP picks the box, SAM 2 follows it both ways. A stage returns the clip with
more known of it, or raises `UnfitError` with the reason why it ends there.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from alchemint import media, storage
from alchemint.annotate import filters, seeing
from alchemint.annotate.captioner import Captioner
from alchemint.annotate.clip import Clip, Followed, UnfitError
from alchemint.annotate.recipe import Perception, Recipe
from alchemint.annotate.words import Namer
from alchemint.lazy_frames import LazyFrames
from alchemint.perception.sightings import Comparer, Finder, Follower, frames_to_search
from alchemint.records import ClipRecord, Entity

if TYPE_CHECKING:
    from alchemint.perception.sam3 import Sam3Spotter


@dataclass(frozen=True)
class Models:
    """All models of an annotation. Without a captioner captions must be given."""

    namer: Namer
    finder: Finder
    follower: Follower
    comparer: Comparer | None = None
    captioner: Captioner | None = None


def annotate(clip: Clip, models: Models, recipe: Recipe) -> Clip:
    """Return a clip, as `shots.cut` makes it, with its subjects known and followed; `record_of` makes its record.

    Raises UnfitError with the reason where it can't be annotated, ValueError or OSError where its video can't be read.
    """
    clip = caption(clip, models.captioner)
    clip = name(clip, models.namer)
    clip = find(clip, models.finder, models.comparer, recipe.perception)
    clip = follow(clip, models.follower, models.comparer)
    return judge(clip, recipe)


def caption(clip: Clip, captioner: Captioner | None) -> Clip:
    """Return the clip with a caption: its own, or what the captioner says of some of its frames."""
    if clip.caption.strip():
        return clip
    if captioner is None:
        raise UnfitError("no caption is given; write one into the captions file, or let a model write it "
                         "(captions.by: model)")
    said = captioner.caption(_spread(clip, captioner.options.num_frames), clip.facts.fps)
    return replace(clip, caption=said.caption, events=said.events)


def name(clip: Clip, namer: Namer) -> Clip:
    """Return the clip with the words of its caption that name subjects."""
    words = namer.name(clip.caption)
    if not words:
        raise UnfitError(f'the caption names nobody and nothing that could be followed: "{clip.caption:.200}"')
    return replace(clip, words=tuple(words))


def find(clip: Clip, finder: Finder, comparer: Comparer | None, options: Perception) -> Clip:
    """Return the clip with the box of each word, looked for on a few frames; words without one are dropped."""
    frames = _spread(clip, options.num_search_frames)
    return seeing.find(clip, frames, finder, comparer, options)


def follow(clip: Clip, follower: Follower, comparer: Comparer | None) -> Clip:
    """Return the clip with what was found followed through all of its frames, which are read as they are needed."""
    if not clip.found:
        return clip
    with LazyFrames(clip.source.address, clip.first_frame, clip.num_frames, clip.facts.fps) as frames:
        return seeing.follow(clip, frames, follower, comparer)


def see(clip: Clip, spotter: "Sam3Spotter", comparer: Comparer | None, options: Perception) -> Clip:
    """Return the clip with its words found and followed by a model that does both."""
    with LazyFrames(clip.source.address, clip.first_frame, clip.num_frames, clip.facts.fps) as frames:
        return seeing.see_all(clip, frames, spotter, comparer, options)


def judge(clip: Clip, recipe: Recipe) -> Clip:
    """Return the clip with the subjects that pass the recipe's filters; a clip must keep one at least."""
    clip = filters.judge(clip, recipe.filters)
    if not clip.followed:
        reasons = ", ".join(f'"{gone.word}" ({gone.filter})' for gone in clip.dropped)
        raise UnfitError(f"no subject is left: {reasons}", clip.dropped)
    return clip


def record_of(clip: Clip, folder: str) -> ClipRecord:
    """Return the record of an annotated clip, whose video is named relative to the records' folder where it can be."""
    return ClipRecord(
        clip_id=clip.clip_id, source=clip.source.name, video=video_name(clip.source.address, folder),
        first_frame=clip.first_frame, fps=clip.facts.fps, num_frames=clip.num_frames, width=clip.facts.width,
        height=clip.facts.height, caption=clip.caption, events=clip.events,
        entities=tuple(map(_entity, clip.followed)), dropped=clip.dropped)


def video_name(address: str, folder: str) -> str:
    """Return how a record in `folder` names a video: relative to it where both are on this machine's disk, so that they
    can be moved together; otherwise its address."""
    if storage.is_url(address) or storage.is_url(folder):
        return address
    return os.path.relpath(address, folder).replace(os.sep, "/")


@dataclass(frozen=True)
class PickedFrames:
    """A few frames of a video, by number; see `perception.sightings.Frames`."""

    shape: tuple[int, ...]
    frames: Mapping[int, np.ndarray]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, number: int) -> np.ndarray:
        return self.frames[number]


def _spread(clip: Clip, at_most: int) -> PickedFrames:
    """Return the frames of a clip that `frames_to_search` names, counted from its first."""
    numbers = frames_to_search(clip.num_frames, at_most)
    read = media.frames_of(clip.source.address, [clip.first_frame + number for number in numbers], clip.facts.fps)
    return PickedFrames((clip.num_frames, clip.facts.height, clip.facts.width, 3),
                        dict(zip(numbers, read, strict=True)))


def _entity(one: Followed) -> Entity:
    word = one.found.word
    figures = {name: round(value, 4) for name, value in one.figures.items()}
    if one.found.likeness is not None:
        figures["likeness"] = round(one.found.likeness, 4)
    return Entity(name=re.sub(r"[^\w]+", "-", word.lower()).strip("-") or "subject", word=word, references=(),
                  track=one.track, figures={"detection": round(one.found.anchor.score, 4), **figures})
