"""The strip of a video."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from alchemint.studio.film import film_strip, joined, moments


def numbered(count: int, height: int, width: int) -> np.ndarray:
    """A video whose frame n is of the grey 10 n."""
    return np.repeat(10 * np.arange(count, dtype=np.uint8), height * width * 3).reshape(count, height, width, 3)


@pytest.mark.parametrize(("height", "width", "num_tiles", "tile"), [
    (64, 64, 12, (128, 128)), (480, 832, 7, (250, 144)), (832, 480, 21, (83, 144)), (20, 200, 4, (1400, 140)),
])
def test_a_strip_shows_the_middle_of_equal_parts_of_the_time(height: int, width: int, num_tiles: int,
                                                             tile: tuple[int, int]) -> None:
    strip = Image.open(BytesIO(film_strip(numbered(25, height, width))))
    assert (strip.format, strip.size) == ("JPEG", (num_tiles * tile[0], tile[1]))
    shown = np.asarray(strip)[tile[1] // 2, tile[0] // 2::tile[0], 0] / 10
    expected = [24 * (part + 0.5) / num_tiles for part in range(num_tiles)]
    assert np.abs(shown - expected).max() <= 0.61  # a frame has no halves, and a grey is off by one at most in JPEG


def test_a_short_video_has_no_more_tiles_than_frames() -> None:
    assert Image.open(BytesIO(film_strip(numbered(1, 64, 64)))).size == (128, 128)
    assert moments(1, 1) == [0]
    assert moments(5, 5) == [0, 1, 2, 3, 4]


def test_small_videos_stay_sharp() -> None:
    frames = np.zeros((1, 16, 16, 3), np.uint8)
    frames[0, 8, 8] = 255
    bright = np.asarray(Image.open(BytesIO(film_strip(frames))).convert("L")) > 127
    rows, columns = np.nonzero(bright)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (72, 80, 72, 80)


def test_tiles_lie_in_order() -> None:
    tiles = [Image.new("RGB", (10, 6), (number, 0, 0)) for number in (10, 20, 30)]
    assert np.asarray(joined(tiles, 6))[3, 5::10, 0].tolist() == [10, 20, 30]
    assert joined(tiles, 3).size == (15, 3)
