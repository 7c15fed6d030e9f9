"""The curves K(t) of a storyboard."""

import numpy as np
import pytest
from PIL import Image

from alchemint.interval_curves import curves
from alchemint.storyboard import Defaults, Storyboard, Subject
from alchemint.timeline import latent_span_of, num_latents, num_shared_frames, windows

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


def test_a_long_video_has_the_curves_of_its_windows(board: Storyboard) -> None:
    """Frames 0-40 and, 32 on, 32-72 and 40-80: of 11 latents each, beginning at latents 0, 8 and 10."""
    assert windows(81, 41, num_shared_frames(None, 41, 16.0)) == [(0, 40), (32, 72), (40, 80)]
    early, late = curves(board, "werope", CONFIG, window=41)["fox"]

    def alone(start: float, end: float) -> np.ndarray:
        subject = board.subjects[0].model_copy(update={"appears": ((start, end),)})
        part = board.model_copy(update={"num_frames": 41, "subjects": (subject,)})
        return curves(part, "werope", CONFIG)["fox"][0]

    assert np.allclose(early[:8], alone(0.5, 2.0)[:8])
    assert not np.allclose(early[:8], curves(board, "werope", CONFIG)["fox"][0][:8], atol=1e-3)
    assert not early[11:].any()
    assert not late[:8].any()
    assert np.allclose(late[8:10], alone(1.0, 2.5)[:2])  # frames 48 to 79 of the video are 16 to 40 of this window
    assert np.allclose(late[19:], alone(0.5, 2.5)[9:])
    assert np.allclose(late[10:19], (alone(1.0, 2.5)[2:] + alone(0.5, 2.5)[:9]) / 2)
    assert np.array_equal(curves(board, "werope", CONFIG, window=81)["fox"], curves(board, "werope", CONFIG)["fox"])
