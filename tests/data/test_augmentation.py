"""Augmentation: nothing at strength 0, and each change by what it must leave as it is."""

from dataclasses import fields, replace

import numpy as np
import pytest
from PIL import Image

from alchemint import media
from alchemint.data.augmentation import (
    NO_AUGMENTATION,
    AugmentationOptions,
    augmented_canvas,
    blurred,
    coloured,
)

SIZE = 48, 32


def picture(hidden: tuple[int, int, int] = (0, 0, 0)) -> Image.Image:
    """A patterned disc, cut out; `hidden` is the colour beneath what is transparent."""
    pixels = np.random.default_rng(0).integers(60, 200, (40, 40, 4), dtype=np.uint8)
    y, x = np.mgrid[:40, :40] - 19.5
    disc = x ** 2 + y ** 2 < 15 ** 2
    pixels[..., 3] = 255 * disc
    pixels[~disc, :3] = hidden
    return Image.fromarray(pixels)


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def shown_width(canvas: np.ndarray) -> int:
    columns = np.flatnonzero((np.abs(canvas.astype(int) - media.NEUTRAL) > 12).any((0, 2)))
    return int(columns[-1] - columns[0] + 1)


@pytest.mark.parametrize("image", [picture(), picture().convert("RGB")])
def test_no_augmentation_is_the_canvas_as_it_is(image: Image.Image) -> None:
    canvas = augmented_canvas(image, SIZE, 0.7, NO_AUGMENTATION, random())
    assert np.array_equal(canvas, media.reference_canvas(image, *SIZE, share=0.7))


@pytest.mark.parametrize("name", [field.name for field in fields(AugmentationOptions)])
def test_every_strength_changes_the_picture_by_the_generator_alone(name: str) -> None:
    options = replace(NO_AUGMENTATION, **{name: 0.4})
    image = picture()
    before = np.asarray(image).copy()
    one, again, other = (augmented_canvas(image, SIZE, 0.7, options, random(seed)) for seed in (1, 1, 2))
    assert one.shape == (32, 48, 3)
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    assert not np.array_equal(one, media.reference_canvas(image, *SIZE, share=0.7))
    assert np.array_equal(np.asarray(image), before)


def test_what_is_hidden_has_no_influence() -> None:
    options = AugmentationOptions(0.2, 0.3, 0.5, 0.5, 0.5)
    for seed in range(8):
        black, red = (augmented_canvas(picture(hidden), SIZE, 0.7, options, random(seed)).astype(int)
                      for hidden in ((0, 0, 0), (255, 0, 0)))
        assert np.abs(black - red).max() <= 2


def test_zoom_scales_the_subject_up_to_being_cut_off() -> None:
    options = replace(NO_AUGMENTATION, zoom=0.8)
    widths = []
    for seed in range(30):
        draws = random(seed)
        draws.uniform(0, 0)
        zoom = float(np.exp(draws.uniform(-np.log(1.8), np.log(1.8))))
        canvas = augmented_canvas(picture(), SIZE, 0.8, options, random(seed))
        widths.append(shown_width(canvas))
        # A disc of 0.8 * 32 pixels; grown beyond the canvas its height is cut, its width is not.
        assert abs(widths[-1] - min(0.8 * 32 * zoom, 48)) <= 3
        assert (canvas[0] != media.NEUTRAL).any() == (zoom * 0.8 >= 1 - 0.5 / 32)
    assert min(widths) < 20 < 36 < max(widths)


def test_colours_change_about_what_is_seen() -> None:
    image = picture(hidden=(255, 255, 255))
    pixels = np.asarray(image).astype(float)
    seen = pixels[..., 3] > 0
    weights = np.array([0.299, 0.587, 0.114])
    mean = (pixels[seen][:, :3] @ weights).mean()
    brighter, flatter, greyer = (np.asarray(coloured(image, *factors)).astype(float)
                                 for factors in ((1.2, 1, 1), (1, 0.5, 1), (1, 1, 0.5)))
    assert np.abs(brighter[seen][:, :3] - 1.2 * pixels[seen][:, :3]).max() <= 0.5
    assert np.abs(flatter[seen][:, :3] - (mean + pixels[seen][:, :3]) / 2).max() <= 0.51
    assert np.abs(greyer[seen][:, :3] @ weights - pixels[seen][:, :3] @ weights).max() <= 0.51
    assert np.ptp(greyer[seen][:, :3], axis=1).mean() < 0.55 * np.ptp(pixels[seen][:, :3], axis=1).mean()
    assert all(np.array_equal(changed[..., 3], pixels[..., 3]) for changed in (brighter, flatter, greyer))


def test_blur_keeps_a_plain_subject_plain() -> None:
    plain = np.zeros((40, 40, 4), np.uint8)
    plain[10:30, 10:30] = (200, 100, 50, 255)
    pixels = np.asarray(blurred(Image.fromarray(plain), 3.0)).astype(int)
    seen = pixels[..., 3] > 25
    assert seen.sum() > 400
    assert np.abs(pixels[seen][:, :3] - (200, 100, 50)).max() <= 6
    assert 0 < pixels[10, 20, 3] < 255
    assert np.array_equal(np.asarray(blurred(Image.fromarray(plain), 0.0)), plain)


def test_a_picture_that_shows_nothing_is_an_empty_canvas() -> None:
    empty = Image.new("RGBA", (9, 9))
    assert (augmented_canvas(empty, SIZE, 0.8, AugmentationOptions(), random()) == media.NEUTRAL).all()


@pytest.mark.parametrize("strength", [-0.1, 1.0, float("nan")])
def test_strengths_out_of_range_are_named(strength: float) -> None:
    with pytest.raises(ValueError, match=r"contrast .*: the strength must be at least 0 and below 1"):
        AugmentationOptions(contrast=strength)
