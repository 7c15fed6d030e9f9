"""Framing against explicit crops and loops over pixels."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from alchemint.data.framing import Framing, nearest_size
from alchemint.masks import track_of

SIDES = st.integers(8, 2000)


@given(SIDES, SIDES, SIDES, SIDES)
def test_the_box_is_the_largest_of_its_shape_and_centred(width: int, height: int, wide: int, high: int) -> None:
    left, top, right, bottom = Framing((width, height), (wide, high)).box
    assert left >= 0 and top >= 0 and right <= width and bottom <= height
    assert (right - left) / (bottom - top) == pytest.approx(wide / high)
    assert left + right == pytest.approx(width) and top + bottom == pytest.approx(height)
    assert min(left, top) == pytest.approx(0, abs=1e-9)


def test_a_frame_of_the_right_size_stays_as_it_is() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    assert np.array_equal(Framing((48, 32), (48, 32)).frame(frame), frame)


def test_what_stands_over_is_cut_off_evenly() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    assert np.array_equal(Framing((48, 32), (32, 32)).frame(frame), frame[:, 8:40])
    assert np.array_equal(Framing((48, 32), (48, 16)).frame(frame), frame[8:24])
    half = np.asarray(Image.fromarray(frame[:, 8:40]).resize((16, 16), Image.Resampling.BICUBIC))
    assert np.abs(Framing((48, 32), (16, 16)).frame(frame)[2:-2, 2:-2].astype(int) - half[2:-2, 2:-2]).max() <= 1


def test_a_frame_of_another_size_than_the_record_says_is_refused() -> None:
    with pytest.raises(ValueError, match="its frames are 48 x 32, but the record says 32 x 48"):
        Framing((32, 48), (32, 32)).check(np.zeros((32, 48, 3), np.uint8))


def test_shares_against_a_loop() -> None:
    mask = np.random.default_rng(1).random((64, 96)) < 0.3
    shares = Framing((96, 64), (32, 32)).shares(mask, 8)
    cut = mask[:, 16:80]
    for y in range(4):
        for x in range(4):
            assert shares[y, x] == pytest.approx(cut[16 * y:16 * y + 16, 16 * x:16 * x + 16].mean(), abs=1e-6)


def test_areas_are_exact_where_nothing_is_cut_off_and_for_boxes_that_are_filled() -> None:
    random = np.random.default_rng(2)
    masks = np.zeros((20, 32, 64), bool)
    for mask in masks[1:]:
        x, y = sorted(random.integers(0, 64, 2)), sorted(random.integers(0, 32, 2))
        mask[y[0]:y[1] + 1, x[0]:x[1] + 1] = True
    assert np.allclose(Framing((64, 32), (64, 32)).shown_areas(track_of(masks)), masks.mean((1, 2)))
    assert np.allclose(Framing((64, 32), (16, 16)).shown_areas(track_of(masks)), masks[:, :, 16:48].mean((1, 2)))
    round_one = np.add.outer(np.arange(-16, 16) ** 2, np.arange(-32, 32) ** 2) < 150
    framing = Framing((64, 32), (64, 32))
    assert framing.shown_areas(track_of(round_one[None])).tolist() == [round_one.mean()]


@given(SIDES, SIDES, st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=5))
def test_the_nearest_size_by_a_loop(width: int, height: int, sizes: list[tuple[int, int]]) -> None:
    distances = [abs(math.log(width / height) - math.log(wide / high)) for wide, high in sizes]
    found = nearest_size((width, height), sizes)
    assert distances[sizes.index(found)] == pytest.approx(min(distances), abs=1e-8)


def test_of_sizes_with_one_aspect_ratio_the_first_is_taken() -> None:
    assert nearest_size((1920, 1080), [(480, 832), (832, 468), (1280, 720), (640, 360)]) == (832, 468)
