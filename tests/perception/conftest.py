"""Tiny perception models of the real classes, with random weights, and a video for them to look at."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from tests import tiny_perception


@pytest.fixture(scope="session")
def word_tokenizer() -> Any:
    return tiny_perception.word_tokenizer()


@pytest.fixture(scope="session")
def dino_model() -> Any:
    return tiny_perception.dino_model()


@pytest.fixture(scope="session")
def dino_processor() -> Any:
    return tiny_perception.dino_processor()


@pytest.fixture(scope="session")
def clip_model() -> Any:
    return tiny_perception.clip_model()


@pytest.fixture(scope="session")
def clip_processor() -> Any:
    return tiny_perception.clip_processor()


@pytest.fixture(scope="session")
def sam_model() -> Any:
    return tiny_perception.sam_model()


@pytest.fixture(scope="session")
def sam3_model() -> Any:
    return tiny_perception.sam3_model()


@pytest.fixture(scope="session")
def video() -> np.ndarray:
    """A bright square that moves over noise: 24 frames of 80 x 48 pixels."""
    frames = np.random.default_rng(0).integers(0, 90, (24, 48, 80, 3), dtype=np.uint8)
    for number, frame in enumerate(frames):
        frame[10:30, 2 * number:2 * number + 20] = (250, 200, 30)
    return frames


@pytest.fixture(scope="session")
def saved_models(
    tmp_path_factory: pytest.TempPathFactory, word_tokenizer: PreTrainedTokenizerFast
) -> Callable[..., Path]:
    """A function that saves parts side by side into one folder, as a hub repository holds them."""

    def save(name: str, *parts: Any) -> Path:
        folder: Path = tmp_path_factory.mktemp(name)
        for part in (*parts, word_tokenizer):
            part.save_pretrained(folder)
        return folder

    return save
