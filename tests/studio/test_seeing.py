"""When subjects are seen, in clips of which it is known."""

from typing import Any

import numpy as np
from PIL import Image

from alchemint.perception.watcher import Sightings
from alchemint.storyboard import Defaults, Storyboard, Subject
from alchemint.studio.seeing import seen_intervals
from alchemint.toyworld import Clip, WorldConfig, render_clip


def board_of(clip: Clip) -> Storyboard:
    subjects = [Subject(name=f"the {subject.word}", word=subject.word, appears=[subject.interval],
                        images=[Image.fromarray(reference) for reference in subject.references])
                for subject in clip.subjects]
    return Storyboard(prompt=clip.caption, subjects=subjects).resolve(Defaults(8.0, 64, 64, 33, 8))


def test_subjects_are_seen_when_they_are_there() -> None:
    shares = []
    for index in range(4):
        clip = render_clip("heldout", index, WorldConfig(), num_subjects=2)
        board = board_of(clip)
        seen = seen_intervals(clip.frames, clip.fps, board)
        assert list(seen) == [subject.name for subject in board.subjects]
        moments = (np.arange(33) + 0.01) / clip.fps
        for subject in board.subjects:
            (start, end), = subject.appears
            truth = (moments >= start) & (moments < end)
            found = np.zeros(33, bool)
            for first, last in seen[subject.name]:
                found |= (moments >= first) & (moments < last)
            shares.append((truth & found).sum() / (truth | found).sum())
    assert np.mean(shares) > 0.8


def test_who_is_not_there_is_not_seen() -> None:
    clip, other = (render_clip("heldout", index, WorldConfig(), num_subjects=1) for index in (0, 5))
    assert list(seen_intervals(clip.frames, clip.fps, board_of(other)).values()) == [[]]


def test_intervals_are_half_open_seconds_of_runs_of_frames() -> None:
    clip = render_clip("heldout", 0, WorldConfig(), num_subjects=2)

    class Stub:
        def look(self, video: np.ndarray, sought: Any) -> Sightings:
            assert [len(one.references) for one in sought] == [1, 1]
            masks = np.zeros((2, *video.shape[:3]), bool)
            masks[0, 3:6] = masks[0, 12:13] = True
            masks[1, 20:] = True
            masks[1, 10, 0, :8] = True  # a speck of 8 pixels in 4,096
            return Sightings(masks, (None, None))

    seen: dict[str, Any] = seen_intervals(clip.frames, 8.0, board_of(clip), Stub())  # type: ignore[arg-type]
    assert list(seen.values()) == [[[0.375, 0.75], [1.5, 1.625]], [[2.5, 4.0]]]


def test_a_storyboard_without_subjects_needs_nobody_to_look() -> None:
    assert seen_intervals(np.zeros((5, 8, 8, 3), np.uint8), 6.0, Storyboard(prompt="a meadow")) == {}
