"""The shipped suites ask for what their clips show, exactly."""

import numpy as np
import pytest
from PIL import Image

from alchemint import timeline
from alchemint.cli.systems import clip_of
from alchemint.s2vtime.suite import load_suite, names_of_shipped

TOY_SUITES = {"toy-single": 1, "toy-dual": 2, "toy-quad": 4, "toy-similar": 2}


def test_they_are_shipped() -> None:
    assert set(TOY_SUITES) <= set(names_of_shipped())


@pytest.mark.parametrize("name", TOY_SUITES)
def test_storyboards_ask_for_what_the_clips_show(name: str) -> None:
    suite = load_suite(name)
    assert len(suite.entries) == 100
    for entry in suite.entries[::9]:
        clip = clip_of(entry)
        board = entry.storyboard
        assert clip.split == "heldout"
        assert board.prompt == clip.caption
        assert board.duration == timeline.duration_s(len(clip.frames), clip.fps)
        assert [subject.word for subject in board.subjects] == [subject.word for subject in clip.subjects]
        assert len(board.subjects) == TOY_SUITES[name]
        for asked, shown in zip(board.subjects, clip.subjects, strict=True):
            ours, theirs = (timeline.frames_in(span, clip.fps, len(clip.frames))
                            for span in (asked.appears[0], shown.interval))
            assert ours == theirs
            (path,) = asked.images
            with Image.open(path) as image:
                assert np.array_equal(np.asarray(image), shown.references[0])


def test_look_alikes_differ_in_their_colours_only() -> None:
    for entry in load_suite("toy-similar").entries:
        first, second = (subject.word.split() for subject in entry.storyboard.subjects)
        assert first[-1] == second[-1]
        assert first[0] != second[0]
