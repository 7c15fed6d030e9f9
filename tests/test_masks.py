"""Masks as text against a decoder that goes character by character, and boxes against loops."""

import numpy as np
import pytest

from alchemint.masks import box_of, decoded_mask, mask_at, mask_text, track_of
from alchemint.records import Track


def decoded(text: str, height: int, width: int) -> np.ndarray:
    """Return the mask of a COCO run-length text, character by character."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            runs.append(value + runs[-2] if len(runs) > 2 else value)
            value = shift = 0
    flat = [place % 2 == 1 for place, run in enumerate(runs) for _ in range(run)]
    return np.array(flat).reshape(width, height).T


def masks() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.random((37, 41)) < share for share in (0.0, 0.001, 0.03, 0.5, 0.97, 1.0)]


def test_texts_are_run_lengths_of_coco() -> None:
    for mask in masks():
        assert np.array_equal(decoded(mask_text(mask), 37, 41), mask)


def test_however_a_mask_lies_in_memory_its_text_is_the_same() -> None:
    for mask in masks():
        wide = np.repeat(mask, 2, axis=1)
        for same in (np.asfortranarray(mask), mask.T.copy().T, wide[:, ::2], mask[::-1][::-1]):
            assert mask_text(same) == mask_text(mask)


def test_masks_come_back() -> None:
    for mask in masks():
        assert np.array_equal(decoded_mask(mask_text(mask), (41, 37)), mask)


@pytest.mark.parametrize("size", [(40, 37), (42, 37), (410, 370)])
def test_a_mask_of_another_size_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"a mask does not hold {size[0]} x {size[1]} pixels"):
        decoded_mask(mask_text(masks()[3]), size)


def test_a_box_is_the_least_that_holds_the_mask() -> None:
    for mask in masks():
        there = [(x, y) for y in range(37) for x in range(41) if mask[y, x]]
        corners = there and (min(x for x, _ in there), min(y for _, y in there),
                             max(x for x, _ in there) + 1, max(y for _, y in there) + 1)
        assert box_of(mask) == (corners or None)


def test_a_track_tells_of_each_frame() -> None:
    given = masks()
    track = track_of(iter(given), [0.5] * len(given))
    assert track.areas == tuple(int(mask.sum()) for mask in given)
    assert track.boxes == tuple(box_of(mask) for mask in given)
    assert track.scores == (0.5,) * len(given) and track_of(given).scores == ()
    for frame, mask in enumerate(given):
        assert np.array_equal(mask_at(track, frame, (41, 37)), mask)


def test_masks_that_were_left_unread_are_not_taken_for_none() -> None:
    with pytest.raises(ValueError, match="a track has no masks"):
        mask_at(Track(areas=(1,), boxes=((0, 0, 1, 1),)), 0, (4, 4))
