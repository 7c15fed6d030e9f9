"""One video against its storyboard: when each subject was seen, what it looked like, and the numbers of both.

A row is plain JSON. A video that can't be scored is a row, too, with the reason.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from alchemint import media, timeline
from alchemint.perception.sightings import Sought, as_crop, bounding_box, crop, is_seen
from alchemint.s2vtime import metrics
from alchemint.s2vtime.motion import measure_motion
from alchemint.s2vtime.suite import Entry, Suite
from alchemint.storyboard import Storyboard, Subject

NUM_LOOK_ALIKES = 15
"""Strangers among whose references a subject's own is looked up."""

Row = dict[str, Any]
Look = Callable[[np.ndarray, Sequence[Sought]], np.ndarray]
"""video (frames, height, width, 3) uint8, sought -> masks (sought, frames, height, width) bool."""


class Embedder(Protocol):
    """Embeds words and pictures on one unit sphere (`perception.clip.ClipComparer` is one)."""

    def embed_words(self, words: Sequence[str]) -> np.ndarray:
        """Return unit vectors (words, dim)."""

    def embed_pictures(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """Return unit vectors (pictures, dim) of pictures (height, width, 3) uint8 of any sizes."""


@dataclass(frozen=True)
class Judge:
    """Scores videos of one suite. `name` says which perception and embedder looked, with their editions."""

    name: str
    look: Look
    embedder: Embedder
    suite: Suite

    def score_file(self, path: Path, entry: Entry) -> Row:
        """Return the row of a video file; a file that is missing or unreadable is a row with the reason."""
        try:
            video, fps = media.read_video(path)
        except (OSError, ValueError) as error:
            return {"id": entry.id, "status": "failed", "reason": str(error)}
        return self.score(video, fps, entry)

    def score(self, video: np.ndarray, fps: float, entry: Entry) -> Row:
        """Return the row of video (frames, height, width, 3) uint8."""
        subjects = entry.storyboard.subjects
        try:
            asked = [_asked(subject, fps, len(video)) for subject in subjects]
        except ValueError as error:
            return {"id": entry.id, "status": "failed", "reason": str(error)}
        sought = [Sought(subject.word, _pictures(subject)) for subject in subjects]
        masks = self.look(video, sought)
        motion = measure_motion(video, fps)
        references = [self.embedder.embed_pictures([as_crop(picture) for picture in one.references])
                      for one in sought]
        return {
            "id": entry.id, "status": "ok",
            "video": {"num_frames": len(video), "fps": fps, "width": video.shape[2], "height": video.shape[1],
                      "flow": motion.flow, "flicker": motion.flicker},
            "subjects": [self._subject(number, video, fps, subjects, asked[number], masks[number], references)
                         for number in range(len(subjects))],
        }

    def _subject(self, number: int, video: np.ndarray, fps: float, subjects: tuple[Subject, ...],
                 asked: metrics.Presence, masks: np.ndarray, references: list[np.ndarray]) -> Row:
        subject = subjects[number]
        present = is_seen(masks)
        frames = np.flatnonzero(present)
        embeds = self.embedder.embed_pictures([crop(video[frame], bounding_box(masks[frame])) for frame in frames])
        likeness = np.full((len(subjects), len(video)), np.nan)
        for other, views in enumerate(references):
            likeness[other, frames] = (embeds @ views.T).max(1) if len(frames) else 0.0
        word = self.embedder.embed_words([subject.word])[0]
        return {
            "name": subject.name, "word": subject.word,
            "asked": [list(run) for run in timeline.runs(asked.tolist())],
            "seen": [list(run) for run in timeline.runs(present.tolist())],
            **timing(asked, present, fps),
            "swap_rate": metrics.swap_rate(asked, likeness[number], np.delete(likeness, number, axis=0)),
            "clip_text": float((embeds @ word).mean()) if len(frames) else None,
            "clip_ref": float(likeness[number, frames].mean()) if len(frames) else None,
            "retrieval_rank": self._rank(embeds.mean(0), references[number], subject) if len(frames) else None,
        }

    def _rank(self, seen: np.ndarray, own: np.ndarray, subject: Subject) -> int:
        """Return the rank of the subject's own reference among those of the suite that look most like it."""
        others = self._gallery[[images != subject.images for images in self._gallery_images]]
        alike = others[np.argsort(-(others @ own.mean(0)), kind="stable")[:NUM_LOOK_ALIKES]]
        return metrics.retrieval_rank(float((own @ seen).max()), alike @ seen)

    @cached_property
    def _gallery_images(self) -> list[tuple[Any, ...]]:
        """The pictures of the suite's subjects, each subject once."""
        return list(dict.fromkeys(subject.images for entry in self.suite.entries
                                  for subject in entry.storyboard.subjects))

    @cached_property
    def _gallery(self) -> np.ndarray:
        """The embeddings (subjects, dim) of their first references."""
        return self.embedder.embed_pictures([as_crop(_picture(images[0])) for images in self._gallery_images])


def mean_t_iou(board: Storyboard, video: np.ndarray, fps: float, look: Look) -> float:
    """Return the temporal IoU of a video (frames, height, width, 3) uint8, the mean over its storyboard's subjects."""
    masks = look(video, [Sought(subject.word, _pictures(subject)) for subject in board.subjects])
    return float(np.mean([timing(_asked(subject, fps, len(video)), is_seen(mask), fps)["t_iou"]
                          for subject, mask in zip(board.subjects, masks, strict=True)]))


def timing(asked: metrics.Presence, present: metrics.Presence, fps: float) -> Row:
    """Return the part of a subject's row that follows from when it was asked for and when it was seen."""
    wanted, seen = metrics.span(asked), metrics.span(present)
    assert wanted is not None
    return {
        "t_iou": metrics.t_iou(wanted, seen),
        "t_l2": metrics.t_l2(wanted, seen, len(asked)),
        "never_seen": seen is None,
        "presence_f1": metrics.presence_f1(asked, present),
        "leak_rate": metrics.leak_rate(asked, present),
        "onset_error_s": metrics.onset_error_s(wanted, seen, fps),
        "offset_error_s": metrics.offset_error_s(wanted, seen, fps),
    }


def _asked(subject: Subject, fps: float, num_frames: int) -> metrics.Presence:
    runs = []
    for interval in subject.appears:
        frames = timeline.frames_in(interval, fps, num_frames)
        if frames is not None and frames[0] < num_frames:
            runs.append(frames)
    if not runs:
        raise ValueError(f'the video has {num_frames} frames at {fps:g} fps, of which none lies in the intervals of '
                         f'subject "{subject.name}"')
    return metrics.presence([(first, min(last, num_frames - 1)) for first, last in runs], num_frames)


def _pictures(subject: Subject) -> tuple[np.ndarray, ...]:
    return tuple(_picture(image) for image in subject.images)


def _picture(image: Any) -> np.ndarray:
    return np.asarray(media.open_image(image))
