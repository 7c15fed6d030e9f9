"""What the model makes of clips that it has never seen: held-out storyboards through the real pipeline."""

from pathlib import Path

import numpy as np
from PIL import Image

from alchemint import media
from alchemint.data.clips import Clip, ClipSource
from alchemint.pipeline import AlchemintPipeline
from alchemint.storyboard import Event, Storyboard, Subject

_SUBJECTS_OF_ROWS = (1, 1, 1, 2, 2, 2)
_EVERY = 3
_ENLARGEMENT = 3


def storyboard_of(clip: Clip, seed: int, with_events: bool = False) -> Storyboard:
    """Return the storyboard that asks for what `clip` shows: its caption, its subjects and their intervals."""
    _, height, width, _ = clip.frames.shape
    return Storyboard(
        prompt=clip.caption, num_frames=len(clip.frames), fps=clip.fps, width=width, height=height, seed=seed,
        subjects=[Subject(name=f"{number} {subject.word}", word=subject.word,
                          images=[Image.fromarray(image) for image in subject.references],
                          appears=[subject.interval]) for number, subject in enumerate(clip.subjects)],
        events=[Event(during=event.during, text=event.text) for event in clip.events] if with_events else [])


def write_sheet(pipeline: AlchemintPipeline, heldout: ClipSource, path: Path) -> None:
    """Draw held-out clips, each with its references at the left, above what the model makes of their storyboards."""
    clips = [heldout(number, num_subjects) for number, num_subjects in enumerate(_SUBJECTS_OF_ROWS)]
    pipeline.set_progress_bar_config(disable=True)
    (videos,) = pipeline([storyboard_of(clip, seed=0) for clip in clips], return_dict=False)
    rows = []
    for clip, video in zip(clips, videos, strict=True):
        made = media.as_uint8(video)
        references = _references(clip)
        rows += [np.concatenate([references, *clip.frames[::_EVERY]], axis=1),
                 np.concatenate([np.full_like(references, 255), *made[::_EVERY]], axis=1)]
    media.write_image(path, np.concatenate(rows).repeat(_ENLARGEMENT, axis=0).repeat(_ENLARGEMENT, axis=1))


def _references(clip: Clip) -> np.ndarray:
    """Return the clip's reference canvases side by side, with room for two."""
    _, height, width, _ = clip.frames.shape
    canvases = [media.reference_canvas(Image.fromarray(subject.references[0]), width, height)
                for subject in clip.subjects]
    return np.concatenate([*canvases, *[np.full((height, width, 3), 255, np.uint8)] * (2 - len(canvases))], axis=1)
