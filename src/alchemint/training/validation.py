"""What the model makes of clips that it has never seen: held-out storyboards through the real pipeline."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from alchemint import media
from alchemint.data.clips import Clip, ClipSource
from alchemint.pipeline import AlchemintPipeline
from alchemint.storyboard import Event, Storyboard, Subject, load_storyboard

_SUBJECTS_OF_ROWS = (1, 1, 1, 2, 2, 2)
_EVERY = 3
_ENLARGEMENT = 3
_FRAMES_OF_ROW = 6


def storyboard_of(clip: Clip, seed: int, with_events: bool = False) -> Storyboard:
    """Return the storyboard that asks for what `clip` shows: its caption, its subjects and their intervals."""
    _, height, width, _ = clip.frames.shape
    return Storyboard(
        prompt=clip.caption, num_frames=len(clip.frames), fps=clip.fps, width=width, height=height, seed=seed,
        subjects=[Subject(name=f"{number} {subject.word}", word=subject.word,
                          images=[Image.fromarray(image) for image in subject.references],
                          appears=[subject.interval]) for number, subject in enumerate(clip.subjects)],
        events=[Event(during=event.during, text=event.text) for event in clip.events] if with_events else [])


def write_sheet(pipeline: AlchemintPipeline, heldout: ClipSource, path: Path,
                writes: bool = True) -> list[tuple[Storyboard, np.ndarray]]:
    """Draw held-out clips, each with its references at the left, above what the model makes of their storyboards.

    Returns the storyboards and the videos (frames, height, width, 3) uint8. Of several processes one `writes`.
    """
    clips = [heldout(number, num_subjects) for number, num_subjects in enumerate(_SUBJECTS_OF_ROWS)]
    boards = [storyboard_of(clip, seed=0) for clip in clips]
    pipeline.set_progress_bar_config(disable=True)
    (videos,) = pipeline(boards, return_dict=False)
    shown = [(board, media.as_uint8(video)) for board, video in zip(boards, videos, strict=True)]
    rows = []
    for clip, (_, made) in zip(clips, shown, strict=True):
        references = _references(clip)
        rows += [np.concatenate([references, *clip.frames[::_EVERY]], axis=1),
                 np.concatenate([np.full_like(references, 255), *made[::_EVERY]], axis=1)]
    if writes:
        media.write_image(path, np.concatenate(rows).repeat(_ENLARGEMENT, axis=0).repeat(_ENLARGEMENT, axis=1))
    return shown


def write_storyboards(pipeline: AlchemintPipeline, boards: Sequence[Path], path: Path, writes: bool = True) -> None:
    """Draw what the model makes of storyboards, a row of frames each, under the pictures of its subjects."""
    pipeline.set_progress_bar_config(disable=True)
    rows = []
    for board in map(load_storyboard, boards):
        (video,) = pipeline(board, return_dict=False)[0]
        made = media.as_uint8(video)
        _, height, width, _ = made.shape
        frames = made[np.linspace(0, len(made) - 1, _FRAMES_OF_ROW).round().astype(int)]
        pictures = [media.reference_canvas(media.open_image(image), width, height)
                    for subject in board.subjects for image in subject.images][:_FRAMES_OF_ROW]
        blank = np.full((height, width, 3), 255, np.uint8)
        rows += [np.concatenate([*pictures, *[blank] * (_FRAMES_OF_ROW - len(pictures))], axis=1),
                 np.concatenate(list(frames), axis=1)]
    if writes:
        widest = max(row.shape[1] for row in rows)
        media.write_image(path, np.concatenate([np.pad(row, ((0, 0), (0, widest - row.shape[1]), (0, 0)),
                                                       constant_values=255) for row in rows]))


def _references(clip: Clip) -> np.ndarray:
    """Return the clip's reference canvases side by side, with room for two."""
    _, height, width, _ = clip.frames.shape
    canvases = [media.reference_canvas(Image.fromarray(subject.references[0]), width, height)
                for subject in clip.subjects]
    return np.concatenate([*canvases, *[np.full((height, width, 3), 255, np.uint8)] * (2 - len(canvases))], axis=1)
