"""Backgrounds: many places, every mood paints, and the picture is the same at any resolution."""

import numpy as np
import pytest

from alchemint.toyworld import backgrounds, sprites
from alchemint.toyworld.camera import MOVES, Camera, draw_camera
from alchemint.toyworld.canvas import Canvas

EVERY = [(name, phrase) for name, place in backgrounds.PLACES.items() for phrase in place.moods]


def paint(name, phrase, width, height, margin=0):
    place = backgrounds.PLACES[name]
    canvas = Canvas(width, height, margin)
    place.paint(canvas, np.random.default_rng(3), [np.array(colour, float) for colour in place.moods[phrase]])
    return canvas.image()


def test_there_are_at_least_twelve_places():
    assert len(backgrounds.PLACES) >= 12


@pytest.mark.parametrize(("name", "phrase"), EVERY)
def test_a_background_looks_alike_at_any_resolution(name, phrase):
    if name in ("night", "space"):
        pytest.skip("stars are single pixels at any resolution")
    small, large = paint(name, phrase, 64, 64).astype(float), paint(name, phrase, 128, 128).astype(float)
    shrunk = large.reshape(64, 2, 64, 2, 3).mean((1, 3))
    assert small.std() > 4
    assert np.abs(small - shrunk).mean() < 5


@pytest.mark.parametrize("name", backgrounds.PLACES)
def test_a_background_fits_any_shape_of_frame(name):
    phrase = next(iter(backgrounds.PLACES[name].moods))
    assert paint(name, phrase, 32, 120).shape == (120, 32, 3)
    assert paint(name, phrase, 120, 32, margin=5).shape == (32, 130, 3)


def test_no_phrase_holds_a_subject_s_word():
    words = {part for split in ("train", "heldout") for subject in sprites.subjects(split)
             for part in subject.word.split()}
    phrases = {part for _, phrase in EVERY for part in phrase.split()}
    assert not words & phrases


def test_palettes_differ_between_draws():
    drawn = [backgrounds.draw_background(np.random.default_rng(seed), 64, 64, 0) for seed in range(200)]
    assert {background.name for background in drawn} == set(backgrounds.PLACES)
    means = {tuple(background.image.mean((0, 1)).round(3)) for background in drawn}
    assert len(means) == len(drawn)


def test_camera_moves_slowly_and_mostly_not_at_all():
    rng = np.random.default_rng(0)
    cameras = [draw_camera(rng, 25, 64) for _ in range(300)]
    assert {camera.move for camera in cameras} == set(MOVES)
    assert 0.5 < np.mean([camera.move == "still" for camera in cameras]) < 0.7
    for camera in cameras:
        assert np.abs(np.diff(camera.offset)).max() < 0.01 * 64
        assert camera.zoom.min() >= 1


def test_a_pan_shows_what_lies_beside_the_frame():
    background = np.repeat(np.arange(0, 240, 3, np.uint8)[None, :, None], 64, 0).repeat(3, 2)
    camera = Camera("pans right", np.linspace(-7, 7, 15), np.ones(15))
    assert camera.margin == 8
    frames = camera.shoot(background, 64)
    expected = (np.arange(64) + 8 + camera.offset[:, None]) * 3
    assert np.abs(frames[:, 30, :, 0] - expected).max() <= 1
