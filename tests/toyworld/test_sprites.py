"""The atlas: enough subjects, those held out apart from those trained on, and every sprite whole."""

import re

import numpy as np
import pytest

from alchemint.toyworld import sprites


def test_there_are_enough_subjects_and_sixty_are_held_out():
    train, heldout = sprites.subjects("train"), sprites.subjects("heldout")
    assert len(train) + len(heldout) >= 300
    assert len(heldout) == 60
    assert sprites.subjects("validation") == train
    assert len({subject.kind for subject in heldout}) >= 15


def test_held_out_words_are_never_seen_in_training():
    train = {subject.word for subject in sprites.subjects("train")}
    heldout = {subject.word for subject in sprites.subjects("heldout")}
    assert not train & heldout
    assert {"fox", "balloon"} <= train


def test_words_are_plain_unique_nouns():
    words = [subject.word for split in ("train", "heldout") for subject in sprites.subjects(split)]
    assert len(set(words)) == len(words)
    assert all(re.fullmatch(r"[a-z]+([ -][a-z]+)?", word) for word in words)


def test_unknown_split_is_refused_by_name():
    with pytest.raises(ValueError, match=r'split "test".*train, validation, heldout'):
        sprites.subjects("test")


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_every_sprite_is_cropped_tightly_and_fills_its_cell(split):
    for subject in sprites.subjects(split):
        alpha = sprites.sprite(subject).alpha
        assert alpha[0].any() and alpha[-1].any() and alpha[:, 0].any() and alpha[:, -1].any(), subject.word
        assert sprites.CELL - 10 <= max(alpha.shape) <= sprites.CELL, subject.word
        assert (alpha > 127).sum() > 700, subject.word


def test_no_two_sprites_are_the_same():
    levels = [sprites.sprite(subject).level for split in ("train", "heldout") for subject in sprites.subjects(split)]
    assert len({(level.shape, level.tobytes()) for level in levels}) == len(levels)


def test_hue_goes_round_the_colour_circle():
    hues = [sprites.hue_of(rgb) for rgb in ((1, 0, 0), (0, 1, 0), (0, 0, 1))]
    assert np.allclose(np.array(hues) - hues[0], [0, 2 * np.pi / 3, -2 * np.pi / 3])
