"""How much a video moves and flickers: what a frozen video, or one that jumps, can't hide."""

from dataclasses import dataclass

import cv2
import numpy as np

Video = np.ndarray


@dataclass(frozen=True)
class Motion:
    """Means over all pairs of neighbouring frames.

    flow: length of the optical flow in frame widths per second. flicker: mean absolute difference of a frame to the
    one before it moved along the flow, 0..1: what moved is forgiven, what changed is not (the warping error of Lai et
    al., ECCV 2018).
    """

    flow: float
    flicker: float


def measure_motion(video: Video, fps: float) -> Motion:
    """Measure video (frames, height, width, 3) uint8; one of a single frame neither moves nor flickers."""
    if len(video) < 2:
        return Motion(0.0, 0.0)
    height, width = video.shape[1:3]
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    estimator = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    lengths, errors = [], []
    before = cv2.cvtColor(video[0], cv2.COLOR_RGB2GRAY)
    for number in range(1, len(video)):
        after = cv2.cvtColor(video[number], cv2.COLOR_RGB2GRAY)
        flow = estimator.calc(after, before, np.zeros((height, width, 2), np.float32))
        lengths.append(np.hypot(flow[..., 0], flow[..., 1]).mean())
        sources = columns + flow[..., 0], rows + flow[..., 1]
        moved = cv2.remap(video[number - 1], *sources, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        inside = (sources[0] >= 0) & (sources[0] <= width - 1) & (sources[1] >= 0) & (sources[1] <= height - 1)
        if inside.any():
            errors.append(np.abs(moved[inside].astype(np.float32) - video[number][inside]).mean() / 255)
        before = after
    return Motion(float(np.mean(lengths)) * fps / width, float(np.mean(errors)) if errors else 0.0)
