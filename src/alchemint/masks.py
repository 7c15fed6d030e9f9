"""Masks as records hold them: COCO's compressed run-length text (pycocotools, column-major), and boxes.

A mask is bool (height, width).
"""

from collections.abc import Iterable

import numpy as np
from pycocotools import mask as coco

from alchemint.records import Track

Corners = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels, end-exclusive."""


def mask_text(mask: np.ndarray) -> str:
    """Return a mask as COCO's compressed run-length encoding."""
    text: bytes = coco.encode(np.asfortranarray(mask.view(np.uint8)))["counts"]
    return text.decode()


def decoded_mask(text: str, size: tuple[int, int]) -> np.ndarray:
    """Return the mask of (width, height) that a run-length text stands for.

    Raises ValueError when it does not fit the size.
    """
    width, height = size
    try:
        mask: np.ndarray = coco.decode([{"size": [height, width], "counts": text.encode()}])
    except ValueError:
        whole = False
    else:
        # What a mask for fewer pixels leaves out is not refused but undefined; there and back tells.
        whole = coco.encode(mask)[0]["counts"].decode() == text
    if not whole:
        raise ValueError(f"a mask does not hold {width} x {height} pixels; write the record anew")
    return np.asarray(mask[..., 0], bool)


def mask_at(track: Track, frame: int, size: tuple[int, int]) -> np.ndarray:
    """Return a track's mask on a frame of (width, height). Raises ValueError where the track has none that fits."""
    if not track.masks:
        raise ValueError("a track has no masks; write the record anew, with them")
    return decoded_mask(track.masks[frame], size)


def box_of(mask: np.ndarray) -> Corners | None:
    """Return the box around a mask, or None where it is empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def track_of(masks: Iterable[np.ndarray], scores: Iterable[float] = ()) -> Track:
    """Return the track of a subject from its masks, frame by frame; scores as in `Track`."""
    areas, boxes, texts = [], [], []
    for mask in masks:
        areas.append(int(mask.sum()))
        boxes.append(box_of(mask))
        texts.append(mask_text(mask))
    return Track(areas=tuple(areas), boxes=tuple(boxes), masks=tuple(texts), scores=tuple(scores))
