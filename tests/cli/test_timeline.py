"""`alchemint timeline`, and the curves that it draws."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alchemint.cli.timeline import curves
from alchemint.storyboard import Defaults, Storyboard, Subject
from alchemint.timeline import latent_span_of, num_latents

Alchemint = Callable[..., Any]

PARK = Path(__file__).parents[2] / "examples" / "park.yaml"
CONFIG = {"attention_head_dim": 128, "patch_size": [1, 2, 2], "num_word_tokens": 8, "rope_theta": 10000.0,
          "werope_inside": 1.67, "werope_outside": -0.33}
INTERVALS = [(0.5, 2.0), (3.0, 5.0)]


@pytest.fixture
def board() -> Storyboard:
    subject = Subject(name="fox", word="fox", images=[Image.new("RGB", (4, 4))], appears=INTERVALS)
    return Storyboard(prompt="A fox.", subjects=[subject]).resolve(Defaults(16.0, 64, 64, 81, 16))


def test_curves_agree_with_a_loop_over_the_formula(board: Storyboard) -> None:
    """The paper's encoding on Wan's 22 temporal frequencies, written out."""
    freqs = 10000.0 ** (-np.arange(22) / 22)
    last = num_latents(81) - 1
    for interval, curve in zip(INTERVALS, curves(board, "werope", CONFIG)["fox"], strict=True):
        start, end = latent_span_of(interval, 16.0, 81)
        middle, left, right = (start + end) / 2, start / 2, (end + last) / 2
        expected = [np.mean(1.67 * np.cos(freqs * (t - middle)) - 0.33 * np.cos(freqs * (t - left))
                            - 0.33 * np.cos(freqs * (t - right))) for t in range(last + 1)]
        assert np.allclose(curve, expected, atol=1e-5)


@pytest.mark.parametrize("encoding", ["mid", "werope", "contrast"])
def test_curves_are_highest_inside_their_interval(board: Storyboard, encoding: str) -> None:
    for interval, curve in zip(INTERVALS, curves(board, encoding, CONFIG)["fox"], strict=True):
        start, end = latent_span_of(interval, 16.0, 81)
        assert start <= np.argmax(curve) <= end


def test_an_unknown_encoding_is_refused(board: Storyboard) -> None:
    with pytest.raises(ValueError, match='"best" is unknown; use one of untimed, mid, werope'):
        curves(board, "best", CONFIG)


@pytest.mark.usefixtures("toy")
def test_the_command_writes_a_picture(alchemint: Alchemint, tmp_path: Path) -> None:
    target = tmp_path / "new" / "park.png"
    outcome = alchemint("timeline", PARK, "-o", target)
    assert (outcome.status, outcome.err) == (0, "")
    with Image.open(target) as picture:
        assert picture.width == 1280


def test_only_png_is_written(alchemint: Alchemint, tmp_path: Path) -> None:
    outcome = alchemint("timeline", PARK, "-o", tmp_path / "park.gif")
    assert (outcome.status, len(outcome.err.splitlines())) == (2, 1)
    assert "must end in .png" in outcome.err
