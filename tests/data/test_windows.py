"""Batches of pixel windows: pure functions of seed and number, cut from the clips that they say."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from alchemint import media
from alchemint.data.windows import PixelWindows, WindowOptions

Source = Callable[[int, int | None], Any]

OPTIONS = WindowOptions(batch_size=3, lengths=(5, 9), reference_share=0.3)
NUM_BATCHES = 20


def is_of_canvases(batch: torch.Tensor) -> bool:
    return batch.shape[2] == 1


@pytest.fixture(scope="module")
def batches(source: Source) -> list[torch.Tensor]:
    dataset = PixelWindows(source, OPTIONS, seed=0, num_batches=NUM_BATCHES)
    assert len(dataset) == NUM_BATCHES
    return [dataset[number] for number in range(NUM_BATCHES)]


def test_a_batch_does_not_depend_on_those_before(source: Source, batches: list[torch.Tensor]) -> None:
    for number in (0, 7, NUM_BATCHES - 1):
        fresh = PixelWindows(source, OPTIONS, seed=0, num_batches=NUM_BATCHES)
        assert torch.equal(fresh[number], batches[number])
    other_seed = PixelWindows(source, OPTIONS, seed=1, num_batches=NUM_BATCHES)
    assert not all(batch.shape == other_seed[number].shape and torch.equal(batch, other_seed[number])
                   for number, batch in enumerate(batches))


def test_windows_are_consecutive_frames_of_their_clips(source: Source, batches: list[torch.Tensor]) -> None:
    starts = set()
    for number, batch in enumerate(batches):
        if is_of_canvases(batch):
            continue
        assert (batch.dtype, batch.shape[:2], batch.shape[3:]) == (torch.uint8, (3, 3), (32, 32))
        length = batch.shape[2]
        for row, window in enumerate(batch.permute(0, 2, 3, 4, 1).numpy()):
            frames = source(3 * number + row, None).frames
            found = [start for start in range(len(frames) - length + 1)
                     if np.array_equal(frames[start:start + length], window)]
            assert found
            starts.update(found if len(found) == 1 else [])
    assert min(starts) == 0
    assert max(starts) == 13 - 5
    assert {batch.shape[2] for batch in batches if not is_of_canvases(batch)} == {5, 9}


def test_canvases_are_those_that_references_are_laid_on(source: Source, batches: list[torch.Tensor]) -> None:
    numbers = [number for number, batch in enumerate(batches) if is_of_canvases(batch)]
    assert 1 <= len(numbers) <= 12
    for number in numbers:
        pictures = [subject.references[0] for row in range(3) for subject in source(3 * number + row, 4).subjects]
        assert batches[number].shape == (len(pictures), 3, 1, 32, 32)
        for picture, canvas in zip(pictures, batches[number].permute(0, 2, 3, 4, 1).numpy(), strict=True):
            assert np.array_equal(canvas[0], media.reference_canvas(Image.fromarray(picture), 32, 32))
