"""A video as a strip of tiles on an axis of seconds, that of the bars below it: each tile covers an equal part of the
time from the first frame to the last, and shows the frame in the middle of it.

Frames are (frames, height, width, 3) uint8.
"""

from collections.abc import Sequence
from io import BytesIO

from PIL import Image

from alchemint.perception.sightings import Frames

TILE_HEIGHT = 144

_STRIP_ASPECT, _FEWEST_TILES, _MOST_TILES = 12, 4, 24
_QUALITY = 88


def film_strip(frames: Frames) -> bytes:
    """Return the strip of a video as JPEG, about twelve times as wide as high.

    Tiles are at most 144 pixels high; smaller videos are enlarged by a whole factor, so that their pixels stay sharp.
    """
    height, width = frames.shape[1:3]
    count = min(len(frames), max(_FEWEST_TILES, min(_MOST_TILES, round(_STRIP_ASPECT * height / width))))
    tiles = [Image.fromarray(frames[frame]) for frame in moments(len(frames), count)]
    factor = max(1, TILE_HEIGHT // height)
    tiles = [tile.resize((width * factor, height * factor), Image.Resampling.NEAREST) for tile in tiles]
    written = BytesIO()
    joined(tiles, TILE_HEIGHT).save(written, "JPEG", quality=_QUALITY, subsampling=0)
    return written.getvalue()


def moments(num_frames: int, count: int) -> list[int]:
    """Return the frames in the middle of `count` equal parts of a video's time."""
    return [round((part + 0.5) / count * (num_frames - 1)) for part in range(count)]


def joined(tiles: Sequence[Image.Image], most_height: int) -> Image.Image:
    """Return tiles of one size side by side, made smaller where they are higher than `most_height`."""
    width, height = tiles[0].size
    if height > most_height:
        width, height = max(1, round(width * most_height / height)), most_height
        tiles = [tile.resize((width, height), Image.Resampling.LANCZOS) for tile in tiles]
    strip = Image.new("RGB", (len(tiles) * width, height))
    for number, tile in enumerate(tiles):
        strip.paste(tile, (number * width, 0))
    return strip
