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
    shown = [frame for frame in range(num_frames)
             if start - 1e-9 <= frame / fps < end - 1e-9 or (frame == num_frames - 1 and end >= duration - 1e-9)]
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
