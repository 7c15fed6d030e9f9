"""timeline against slow loops over frames, and its conventions."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alchemint import timeline

FRAME_COUNTS = st.integers(0, 40).map(lambda k: 4 * k + 1)
FPS = st.sampled_from([6.0, 8.0, 16.0, 24.0, 30000 / 1001])


@given(FRAME_COUNTS, FPS, st.floats(0, 1), st.floats(0, 1))
def test_frames_in_agrees_with_a_loop_over_frames(num_frames: int, fps: float, one: float, other: float) -> None:
    duration = timeline.duration_s(num_frames, fps)
    start, end = sorted((one * duration, other * duration))
    slack = 1e-6 / fps
    shown = [frame for frame in range(num_frames)
             if start - slack <= frame / fps < end - slack or (frame == num_frames - 1 and end >= duration - slack)]
    assert timeline.frames_in((start, end), fps, num_frames) == ((shown[0], shown[-1]) if shown else None)


@given(FRAME_COUNTS, FPS, st.data())
def test_seconds_of_is_the_inverse_of_frames_in(num_frames: int, fps: float, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, num_frames - 1))
    last = data.draw(st.integers(first, num_frames - 1))
    interval = timeline.seconds_of((first, last), fps, num_frames)
    assert timeline.frames_in(interval, fps, num_frames) == (first, last)


def test_the_last_frame_belongs_to_an_interval_that_ends_with_the_video() -> None:
    assert timeline.frames_in((2.0, 4.0), 6.0, 25) == (12, 24)
    assert timeline.frames_in((2.0, 3.9), 6.0, 25) == (12, 23)


@given(FRAME_COUNTS)
def test_every_frame_lies_in_one_latent_and_their_mean_position_is_the_latent(num_frames: int) -> None:
    held = []
    for latent in range(timeline.num_latents(num_frames)):
        first, last = timeline.frames_of_latent(latent)
        frames = range(first, last + 1)
        held += frames
        assert sum(map(timeline.tau, frames)) / len(frames) == pytest.approx(latent)
    assert held == list(range(num_frames))


def test_durations_that_fit_are_whole_latents() -> None:
    assert timeline.num_frames_for(4.0, 6.0) == 25
    assert timeline.num_frames_for(5.0, 16.0) == 81
    assert timeline.num_frames_for(4.0, 8.0) == 33


def test_a_duration_that_does_not_fit_names_the_two_nearest() -> None:
    with pytest.raises(ValueError, match=r"4\.66667 s \(29 frames\) or 5\.33333 s \(33 frames\)"):
        timeline.num_frames_for(5.0, 6.0)


@pytest.mark.parametrize(("given_", "nearest"), [(24, [21, 25]), (26, [25, 29]), (3, [1, 5]), (0.5, [1])])
def test_nearest_frame_counts(given_: float, nearest: list[int]) -> None:
    assert timeline.nearest_num_frames(given_) == nearest


def test_an_interval_between_two_frames_is_refused() -> None:
    with pytest.raises(ValueError, match="holds no frame"):
        timeline.latent_span_of((0.51, 0.52), 6.0, 25)


def test_a_span_reaches_from_the_first_to_the_last_frame() -> None:
    assert timeline.latent_span_of((0.0, 4.0), 6.0, 25) == (0.0, 6.375)
    assert timeline.latent_span_of((0.5, 3.0), 6.0, 25) == (timeline.tau(3), timeline.tau(17))


@given(FRAME_COUNTS, st.integers(1, 20).map(lambda k: 4 * k + 1), st.data())
def test_windows_cover_a_video_and_share_what_is_asked(num_frames: int, window: int, data: st.DataObject) -> None:
    num_shared = data.draw(st.integers(0, (window - 5) // 4)) * 4 + 1
    places = timeline.windows(num_frames, window, num_shared)
    assert {frame for first, last in places for frame in range(first, last + 1)} == set(range(num_frames))
    assert places[0][0] == 0
    assert places[-1][1] == num_frames - 1
    shared = [len(set(range(before[0], before[1] + 1)) & set(range(after[0], after[1] + 1)))
              for before, after in pairwise(places)]
    assert all(count == num_shared for count in shared[:-1])
    assert all(count >= num_shared and timeline.is_valid_num_frames(count) for count in shared)
    assert {last - first + 1 for first, last in places} == {min(window, num_frames)}
    assert len(set(places)) == len(places)


@pytest.mark.parametrize(("window", "num_shared"), [(81, 9), (25, 9), (17, 5), (9, 1), (5, 1)])
def test_windows_share_three_latents_unless_told_otherwise(window: int, num_shared: int) -> None:
    assert timeline.num_shared_frames(None, window, 16.0) == num_shared


def test_an_overlap_is_seconds_from_the_first_shared_frame_to_the_last() -> None:
    assert timeline.num_shared_frames(0.5, 81, 16.0) == 9
    assert timeline.num_shared_frames(0.0, 81, 16.0) == 1
    assert timeline.num_shared_frames(4.75, 81, 16.0) == 77
    with pytest.raises(ValueError, match=r"overlap 0\.6 s .* use 0\.5 s \(9 frames\) or 0\.75 s \(13 frames\)"):
        timeline.num_shared_frames(0.6, 81, 16.0)
    for overlap_s in (-0.25, 5.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=r"must be within 0 \.\. 4\.75 s"):
            timeline.num_shared_frames(overlap_s, 81, 16.0)


def test_an_interval_of_the_last_frame_alone_is_not_empty() -> None:
    assert timeline.seconds_of((24, 24), 6.0, 25) == (23.5 / 6, 4.0)


@given(st.integers(0, 9), st.integers(1, 60), FPS, FPS)
def test_a_window_shows_the_nearest_frames(start: int, num_frames: int, fps: float, clip_fps: float) -> None:
    window = timeline.window_frames(start, num_frames, fps, clip_fps)
    assert len(window) == num_frames
    for frame, shown in enumerate(window):
        assert abs((shown - start) / clip_fps - frame / fps) <= 0.5 / clip_fps + 1e-6
    if fps == clip_fps:
        assert window == list(range(start, start + num_frames))


def test_halves_are_rounded_up_so_that_windows_step_evenly() -> None:
    assert timeline.window_frames(1, 5, 20.0, 30.0) == [1, 3, 4, 6, 7]
    assert timeline.window_frames(0, 4, 16.0, 8.0) == [0, 1, 1, 2]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=20), st.integers(0, 50), st.integers(0, 50))
def test_frames_of_a_window_agree_with_a_loop(window: list[int], one: int, other: int) -> None:
    window, (first, last) = sorted(window), sorted((one, other))
    found = [number for number in range(len(window)) if window[number] in range(first, last + 1)]
    assert timeline.frames_of_window((first, last), window) == ((min(found), max(found)) if found else None)


@given(st.lists(st.booleans(), max_size=40))
def test_runs_cover_exactly_the_true_values(present: list[bool]) -> None:
    found = timeline.runs(present)
    covered = {frame for first, last in found for frame in range(first, last + 1)}
    assert covered == {frame for frame, there in enumerate(present) if there}
    assert all(earlier[1] + 1 < later[0] for earlier, later in pairwise(found))
