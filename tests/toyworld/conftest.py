"""Clips that several tests look at, rendered once."""

import pytest

from alchemint.toyworld import Clip, WorldConfig, render_clip

NUM_CLIPS = 300


@pytest.fixture(scope="session")
def clips() -> list[Clip]:
    return [render_clip("train", index, WorldConfig()) for index in range(NUM_CLIPS)]


@pytest.fixture(scope="session")
def heldout_clips() -> list[Clip]:
    return [render_clip("heldout", index, WorldConfig()) for index in range(NUM_CLIPS // 3)]
