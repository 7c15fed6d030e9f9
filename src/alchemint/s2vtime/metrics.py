"""The numbers of S2VTime: pure functions of when a subject was asked for, when it was seen, and how it looked.

The paper's own (AlcheMinT, arXiv 2512.10943, S2VTime) compare two intervals, the asked one and the one from the first
to the last frame in which the subject is seen:

    t_iou   |A and B| / |A or B|, 0 when never seen
    t_l2    sqrt(((s - s')^2 + (e - e')^2) / 2), start and end as fractions of the video, 1 when never seen

What they hide is measured frame by frame: gaps (`presence_f1`), being there when not asked (`leak_rate`), and being
somebody else (`swap_rate`, `retrieval_rank`).

Shapes: presence is (frames) bool; frames are (first, last), inclusive; similarities are cosines.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from alchemint import timeline

Presence = np.ndarray
Frames = timeline.Frames


def span(present: Presence) -> Frames | None:
    """Return the first and the last frame that is true, gaps or not; None when there is none."""
    where = np.flatnonzero(present)
    return (int(where[0]), int(where[-1])) if len(where) else None


def presence(runs: list[Frames], num_frames: int) -> Presence:
    """Return the frames (num_frames) bool that lie in any of `runs`."""
    frames = np.arange(num_frames)
    return np.any([(first <= frames) & (frames <= last) for first, last in runs], axis=0) if runs else frames < 0


def t_iou(asked: Frames, seen: Frames | None) -> float:
    """Return the intersection over union of two intervals, 0..1; 0 when nothing was seen."""
    if seen is None:
        return 0.0
    both = max(0, min(asked[1], seen[1]) - max(asked[0], seen[0]) + 1)
    return both / (asked[1] - asked[0] + seen[1] - seen[0] + 2 - both)


def t_l2(asked: Frames, seen: Frames | None, num_frames: int) -> float:
    """Return the root mean square error of start and end as fractions of the video, 0..1; 1 when nothing was seen."""
    if seen is None:
        return 1.0
    start, end = ((ours - theirs) / num_frames for ours, theirs in zip(asked, seen, strict=True))
    return math.sqrt((start**2 + end**2) / 2)


def onset_error_s(asked: Frames, seen: Frames | None, fps: float) -> float | None:
    """Return by how many seconds the subject is seen too late (negative: too early); None when it is never seen."""
    return None if seen is None else (seen[0] - asked[0]) / fps


def offset_error_s(asked: Frames, seen: Frames | None, fps: float) -> float | None:
    """Return by how many seconds the subject leaves too late (negative: too early); None when it is never seen."""
    return None if seen is None else (seen[1] - asked[1]) / fps


def presence_f1(asked: Presence, seen: Presence) -> float:
    """Return the F1 score of the seen frames, 0..1: unlike t-IoU it counts gaps."""
    total = int(asked.sum()) + int(seen.sum())
    return 2 * int((asked & seen).sum()) / total if total else 1.0


def leak_rate(asked: Presence, seen: Presence) -> float | None:
    """Return the share of the frames not asked for in which the subject is seen; None when all were asked for."""
    return float(seen[~asked].mean()) if (~asked).any() else None


def swap_rate(asked: Presence, own: np.ndarray, others: np.ndarray) -> float | None:
    """Return in which share of the frames where a subject was due and something was found it is another one.

    own (frames): similarity of what was found to the subject's own reference, NaN where nothing was; others (others,
    frames): to the references of the video's other subjects. None when nothing was found or there is no other.
    """
    found = asked & ~np.isnan(own)
    if not found.any() or not len(others):
        return None
    return float((others[:, found].max(0) > own[found]).mean())


def retrieval_rank(own: float, strangers: np.ndarray) -> int:
    """Return how many look-alikes are at least as similar as the subject's own reference: 0 is a hit."""
    return int((strangers >= own).sum())


def bootstrap_interval(values: np.ndarray, num_resamples: int = 2000, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of the mean of values (n).

    Values of one storyboard belong together: hand in one mean per storyboard. Raises ValueError when there is none.
    """
    if not len(values):
        raise ValueError("there is no value to take the mean of")
    if len(values) == 1:
        return float(values[0]), float(values[0])
    interval = stats.bootstrap((values,), np.mean, n_resamples=num_resamples, method="percentile", vectorized=True,
                               rng=np.random.default_rng(seed)).confidence_interval
    return float(interval.low), float(interval.high)


@dataclass(frozen=True)
class Comparison:
    """The mean of the first system's values less the second's, its 95 % interval, and a two-sided p-value."""

    difference: float
    interval: tuple[float, float]
    p_value: float


def compare_paired(first: np.ndarray, second: np.ndarray, num_resamples: int = 2000, seed: int = 0) -> Comparison:
    """Compare two systems by their values (n) on the same storyboards, with a paired permutation test.

    Raises ValueError when the lengths differ.
    """
    if first.shape != second.shape:
        raise ValueError(f"{len(first)} values can't be paired with {len(second)}; score both systems on one suite")
    differences = first - second
    test = stats.permutation_test((first, second), lambda a, b, axis: np.mean(a - b, axis=axis), vectorized=True,
                                  permutation_type="samples", n_resamples=num_resamples,
                                  rng=np.random.default_rng(seed))
    return Comparison(float(differences.mean()), bootstrap_interval(differences, num_resamples, seed),
                      float(test.pvalue))
