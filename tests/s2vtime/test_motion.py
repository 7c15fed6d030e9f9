"""Flow is what moves, flicker is what changes without moving."""

import cv2
import numpy as np
import pytest

from alchemint.s2vtime.motion import Motion, measure_motion


@pytest.fixture(scope="module")
def texture() -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 255, (72, 200, 3), dtype=np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2.5), None, 0, 255, cv2.NORM_MINMAX)


@pytest.mark.parametrize("speed", [1, 3])
def test_a_pan_is_flow_without_flicker(texture: np.ndarray, speed: int) -> None:
    """`speed` pixels a frame, of 96 a width, at 8 frames per second."""
    video = np.stack([texture[:, speed * number:speed * number + 96] for number in range(12)])
    motion = measure_motion(video, fps=8.0)
    assert motion.flow == pytest.approx(speed * 8 / 96, rel=0.1)
    assert motion.flicker < 0.01


def test_a_frozen_video_has_neither(texture: np.ndarray) -> None:
    assert measure_motion(np.stack([texture] * 5), 8.0) == Motion(0.0, 0.0)
    assert measure_motion(texture[None], 8.0) == Motion(0.0, 0.0)


def test_changing_light_is_flicker_without_flow(texture: np.ndarray) -> None:
    video = np.stack([(texture * factor).astype(np.uint8) for factor in (1.0, 0.8, 1.0, 0.8)])
    motion = measure_motion(video, 8.0)
    assert motion.flicker == pytest.approx(0.2 * texture.mean() / 255, rel=0.25)
    assert motion.flow < 0.1


def test_flow_is_in_widths_per_second_whatever_the_size(texture: np.ndarray) -> None:
    video = np.stack([texture[:, 2 * number:2 * number + 96] for number in range(8)])
    double = np.stack([cv2.resize(frame, (192, 144)) for frame in video])
    assert measure_motion(double, 8.0).flow == pytest.approx(measure_motion(video, 8.0).flow, rel=0.1)
    assert measure_motion(video, 16.0).flow == pytest.approx(2 * measure_motion(video, 8.0).flow)
