"""Batches of pixel windows: pure functions of seed and number, cut from the clips that they say."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from alchemint import media
from alchemint.data.windows import PixelWindows, WindowBatch, WindowOptions

Source = Callable[[int, int | None], Any]

OPTIONS = WindowOptions(frames_per_batch=27, lengths=(5, 9), reference_share=0.3)
NUM_BATCHES = 20


def is_of_canvases(batch: WindowBatch) -> bool:
    return batch.pixels.shape[2] == 1


def same(one: WindowBatch, other: WindowBatch) -> bool:
    return torch.equal(one.pixels, other.pixels) and torch.equal(one.subject_mask, other.subject_mask)


@pytest.fixture(scope="module")
def batches(source: Source) -> list[WindowBatch]:
    dataset = PixelWindows(source, OPTIONS, seed=0, num_batches=NUM_BATCHES)
    assert len(dataset) == NUM_BATCHES
    return [dataset[number] for number in range(NUM_BATCHES)]


def test_a_batch_does_not_depend_on_those_before(source: Source, batches: list[WindowBatch]) -> None:
    for number in (0, 7, NUM_BATCHES - 1):
        fresh = PixelWindows(source, OPTIONS, seed=0, num_batches=NUM_BATCHES)
        assert same(fresh[number], batches[number])
    other_seed = PixelWindows(source, OPTIONS, seed=1, num_batches=NUM_BATCHES)
    assert not all(same(other_seed[number], batch) for number, batch in enumerate(batches))


def test_windows_are_consecutive_frames_of_their_clips(source: Source, batches: list[WindowBatch]) -> None:
    starts = set()
    for number, batch in enumerate(batches):
        if is_of_canvases(batch):
            continue
        length = batch.pixels.shape[2]
        count = 27 // length
        assert (batch.pixels.dtype, batch.pixels.shape) == (torch.uint8, (count, 3, length, 32, 32))
        assert (batch.subject_mask.dtype, batch.subject_mask.shape) == (torch.bool, (count, 1, length, 32, 32))
        windows = batch.pixels.permute(0, 2, 3, 4, 1).numpy()
        for row, (window, mask) in enumerate(zip(windows, batch.subject_mask[:, 0].numpy(), strict=True)):
            clip = source(27 * number + row // 4, None)
            found = [start for start in range(13 - length + 1)
                     if np.array_equal(clip.frames[start:start + length], window)]
            assert found
            assert any(np.array_equal(clip.masks[:, start:start + length].any(0), mask) for start in found)
            starts.update(found if len(found) == 1 else [])
    assert min(starts) == 0
    assert max(starts) == 13 - 5
    assert {batch.pixels.shape[2] for batch in batches if not is_of_canvases(batch)} == {5, 9}


def test_canvases_are_those_that_references_are_laid_on(source: Source, batches: list[WindowBatch]) -> None:
    numbers = [number for number, batch in enumerate(batches) if is_of_canvases(batch)]
    assert 1 <= len(numbers) <= 12
    for number in numbers:
        pictures = [subject.references[0] for row in range(7) for subject in source(27 * number + row, 4).subjects][:27]
        canvases = batches[number].pixels.permute(0, 2, 3, 4, 1).numpy()
        assert len(canvases) == 27
        masks = batches[number].subject_mask.numpy()
        for picture, canvas, mask in zip(pictures, canvases, masks, strict=True):
            expected = media.reference_canvas(Image.fromarray(picture), 32, 32)
            assert np.array_equal(canvas[0], expected)
            assert np.array_equal(mask[0, 0], (expected != media.NEUTRAL).any(-1))
