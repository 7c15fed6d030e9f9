"""Every metric against a slow twin that counts frames one by one, on ten thousand drawn videos."""

import itertools
import math

import numpy as np
import pytest

from alchemint import timeline
from alchemint.s2vtime import metrics

NUM_VIDEOS = 10_000


def drawn_presences(seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Asked and seen frames: equal ones, touching ones, ones apart, seen ones that are empty or full of holes."""
    random = np.random.default_rng(seed)
    pairs = []
    for number in range(NUM_VIDEOS):
        num_frames = int(random.integers(1, 40))
        first, last = np.sort(random.integers(0, num_frames, 2))
        asked = metrics.presence([(int(first), int(last))], num_frames)
        kind = number % 5
        if kind == 0:
            seen = np.zeros(num_frames, bool)
        elif kind == 1:
            seen = asked.copy()
        elif kind == 2:  # begins on the frame after the asked ones end
            seen = metrics.presence([(int(last) + 1, num_frames - 1)], num_frames)
        else:
            seen = random.random(num_frames) < random.random()
        pairs.append((asked, seen))
    return pairs


def hull(present: np.ndarray) -> set[int]:
    """The frames from the first to the last seen one."""
    seen = [frame for frame, there in enumerate(present) if there]
    return set(range(min(seen), max(seen) + 1)) if seen else set()


def test_metrics_of_presence_equal_their_slow_twins() -> None:
    for asked, seen in drawn_presences(0):
        num_frames, wanted = len(asked), metrics.span(asked)
        assert wanted is not None
        shown = metrics.span(seen)
        frames, others = hull(asked), hull(seen)
        assert (set(range(shown[0], shown[1] + 1)) if shown else set()) == others
        assert metrics.t_iou(wanted, shown) == pytest.approx(len(frames & others) / len(frames | others))
        assert metrics.t_l2(wanted, shown, num_frames) == pytest.approx(
            math.dist([min(frames) / num_frames, max(frames) / num_frames],
                      [min(others) / num_frames, max(others) / num_frames]) / math.sqrt(2) if others else 1.0)

        there = [frame for frame in range(num_frames) if seen[frame]]
        right = [frame for frame in there if asked[frame]]
        wrong = [frame for frame in there if not asked[frame]]
        missed = [frame for frame in range(num_frames) if asked[frame] and not seen[frame]]
        assert metrics.presence_f1(asked, seen) == pytest.approx(
            len(right) / (len(right) + (len(wrong) + len(missed)) / 2))
        outside = num_frames - int(asked.sum())
        assert metrics.leak_rate(asked, seen) == (pytest.approx(len(wrong) / outside) if outside else None)


def test_errors_are_late_when_positive() -> None:
    assert metrics.onset_error_s((4, 11), (6, 8), fps=8.0) == pytest.approx(0.25)
    assert metrics.offset_error_s((4, 11), (6, 8), fps=8.0) == pytest.approx(-0.375)
    assert metrics.onset_error_s((4, 11), None, 8.0) is None
    assert metrics.offset_error_s((4, 11), None, 8.0) is None


def test_presence_is_what_the_runs_cover() -> None:
    random = np.random.default_rng(1)
    for _ in range(500):
        present = random.random(int(random.integers(1, 30))) < random.random()
        assert metrics.presence(timeline.runs(present.tolist()), len(present)).tolist() == present.tolist()
    assert not metrics.presence([], 5).any()
    assert metrics.span(np.zeros(5, bool)) is None


def test_an_always_seen_subject_and_a_perfect_one() -> None:
    """Seen in every frame, t-IoU is the asked share; asked for always and seen always, nothing can leak."""
    for first, last in itertools.combinations_with_replacement(range(12), 2):
        asked = metrics.presence([(first, last)], 12)
        always = np.ones(12, bool)
        assert metrics.t_iou((first, last), metrics.span(always)) == pytest.approx(asked.mean())
        assert metrics.leak_rate(asked, always) == (None if asked.all() else 1.0)
        assert metrics.t_iou((first, last), metrics.span(asked)) == metrics.presence_f1(asked, asked) == 1.0
        assert metrics.t_l2((first, last), (first, last), 12) == 0.0


def test_swaps_are_counted_where_something_was_due_and_found() -> None:
    random = np.random.default_rng(2)
    for _ in range(2000):
        num_frames, num_others = int(random.integers(1, 12)), int(random.integers(0, 4))
        asked = random.random(num_frames) < 0.6
        own = np.where(random.random(num_frames) < 0.3, np.nan, random.random(num_frames))
        others = random.random((num_others, num_frames))
        counted = [frame for frame in range(num_frames) if asked[frame] and own[frame] == own[frame] and num_others]
        swapped = [frame for frame in counted if max(others[:, frame]) > own[frame]]
        expected = len(swapped) / len(counted) if counted else None
        assert metrics.swap_rate(asked, own, others) == (None if expected is None else pytest.approx(expected))


def test_a_tie_with_a_stranger_is_no_hit() -> None:
    assert metrics.retrieval_rank(0.5, np.array([0.1, 0.4])) == 0
    assert metrics.retrieval_rank(0.5, np.array([0.5, 0.9, 0.2])) == 2


def test_bootstrap_intervals_hold_the_mean_as_often_as_they_say() -> None:
    random = np.random.default_rng(3)
    held = 0
    for trial in range(200):
        low, high = metrics.bootstrap_interval(random.normal(1.0, 2.0, 60), num_resamples=400, seed=trial)
        held += low <= 1.0 <= high
    assert 0.88 <= held / 200 <= 0.99
    assert metrics.bootstrap_interval(np.array([0.3])) == (0.3, 0.3)
    with pytest.raises(ValueError, match="no value"):
        metrics.bootstrap_interval(np.array([]))


def test_comparisons_are_paired_by_storyboard() -> None:
    """A difference far smaller than the spread between storyboards is found, since the pairs share that spread."""
    random = np.random.default_rng(4)
    level = random.normal(0.0, 1.0, 80)
    first, second = level + 0.05 + random.normal(0, 0.05, 80), level + random.normal(0, 0.05, 80)
    found = metrics.compare_paired(first, second)
    assert found.difference == pytest.approx(float(np.mean(first) - np.mean(second)))
    assert found.interval[0] <= found.difference <= found.interval[1]
    assert found.p_value < 0.01
    assert metrics.compare_paired(level, level).p_value == 1.0
    shuffled = metrics.compare_paired(first, random.permutation(second))
    assert shuffled.p_value > 0.05
    with pytest.raises(ValueError, match="one suite"):
        metrics.compare_paired(first, second[:-1])
