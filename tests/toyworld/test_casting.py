"""Casting: who joins whom, and how stays spread over the video."""

import numpy as np
import pytest

from alchemint.toyworld import casting


@pytest.mark.parametrize("num_frames", [13, 25, 33])
def test_stays_fit_the_video_and_none_ends_one_frame_early(num_frames):
    rng = np.random.default_rng(0)
    for count in (1, 2, 4):
        for _ in range(300):
            for first, last in casting.draw_stays(rng, count, num_frames):
                assert 0 <= first < last < num_frames
                assert last - first + 1 >= 4
                assert last != num_frames - 2


def test_a_cast_shares_no_noun_but_for_twins():
    rng = np.random.default_rng(1)
    alike = 0
    for _ in range(500):
        cast = casting.draw_cast(rng, "train", 3)
        alike += cast[0].kind == cast[1].kind
        for one in range(3):
            for other in range(one):
                same = cast[one] == cast[other]
                assert same or not set(cast[one].word.split()) & set(cast[other].word.split())
    assert alike / 500 > 0.2
