"""Long videos: windows against loops over frames, joints, memory, and whole videos with tiny random models."""

import tracemalloc
import weakref
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import PreTrainedTokenizerFast, UMT5EncoderModel

from alchemint import media, timeline
from alchemint.long_video import crossfade, joined, long_video, windows_of
from alchemint.model.latents import encode_video
from alchemint.pipeline import AlchemintPipeline
from alchemint.storyboard import Defaults, Event, Storyboard, Subject

FPS, WINDOW = 8.0, 9
DEFAULTS = Defaults(FPS, 32, 32, WINDOW, 16)
OVERLAP_S = 0.5
"""Five frames, two latents."""


def picture(number: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (20, 16, 3), np.uint8))


def new_board(*appears: list[tuple[float, float]], **values: Any) -> Storyboard:
    words = ("fox", "duck", "robot")
    subjects = [Subject(name=word, word=word, images=[picture(number)], appears=intervals)
                for number, (word, intervals) in enumerate(zip(words, appears, strict=False))]
    return Storyboard(**{"prompt": "a fox, a duck and a robot", "seed": 3, "subjects": subjects, "num_frames": 21,
                         **values})


@pytest.fixture(scope="module")
def pipeline(
    vae: AutoencoderKLWan, tokenizer: PreTrainedTokenizerFast, text_encoder: UMT5EncoderModel,
    new_transformer: Callable[..., Any]
) -> AlchemintPipeline:
    pipeline = AlchemintPipeline(
        tokenizer, text_encoder, vae, new_transformer(), FlowMatchEulerDiscreteScheduler(shift=5.66),
        width=32, height=32, num_frames=WINDOW, fps=FPS, max_prompt_tokens=12, max_event_tokens=6)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def made(pipeline: AlchemintPipeline, board: Storyboard, **options: Any) -> np.ndarray:
    return np.stack(list(long_video(pipeline, board, **{"overlap_s": OVERLAP_S, "num_inference_steps": 2, **options})))


# Windows


def shown(interval: tuple[float, float], num_frames: int) -> list[bool]:
    """Tell for each frame whether it belongs to an interval, by the rule that users are told."""
    end_s = (num_frames - 1) / FPS
    return [interval[0] - 1e-9 <= frame / FPS < interval[1] - 1e-9
            or (frame == num_frames - 1 and interval[1] >= end_s - 1e-9) for frame in range(num_frames)]


@settings(deadline=None)
@given(st.integers(1, 12), st.sampled_from([0.0, 0.5]), st.data())
def test_windows_have_their_parts_of_every_interval(
    num_latents: int, overlap_s: float, data: st.DataObject
) -> None:
    num_frames = 4 * num_latents + 1
    frames = st.integers(0, 2 * (num_frames - 1)).map(lambda half: half / 2 / FPS)
    spans = st.tuples(frames, frames).map(lambda ends: (min(ends), max(ends)))
    spans = spans.filter(lambda span: span[0] < span[1] and any(shown(span, num_frames)))
    appears = data.draw(st.lists(st.lists(spans, min_size=1, max_size=3), max_size=3))
    events = [Event(during=span, text=f"event {number}")
              for number, span in enumerate(data.draw(st.lists(spans, max_size=3)))]
    board = new_board(*appears, events=events, num_frames=num_frames).resolve(DEFAULTS)

    for (first, last), _, part in windows_of(board, WINDOW, overlap_s):
        part = part.resolve(DEFAULTS)  # the pipeline does so: there must be no fault
        count = last - first + 1
        assert part.num_frames == count
        assert [subject.name for subject in part.subjects] == [subject.name for subject in board.subjects]
        rows = [(before.appears, after.appears) for before, after in zip(board.subjects, part.subjects, strict=True)]
        texts = [event.text for event in part.events]
        rows += [((event.during,), [each.during for each in part.events if each.text == event.text])
                 for event in board.events]
        for before, after in rows:
            expected = [shown(interval, num_frames)[first:last + 1] for interval in before]
            got = [timeline.frames_in(interval, FPS, count) for interval in after]
            assert None not in got
            assert [[found[0] <= frame <= found[1] for frame in range(count)] for found in got if found] == [
                row for row in expected if any(row)]
        assert len(texts) == len(set(texts))


def test_a_video_that_fits_is_its_own_window() -> None:
    board = new_board([(0.25, 0.75)], num_frames=WINDOW).resolve(DEFAULTS)
    (window,) = windows_of(board, WINDOW, OVERLAP_S)
    assert (window.frames, window.num_shared) == ((0, 8), 0)
    assert window.storyboard == board


def test_windows_keep_all_but_the_times_and_draw_their_own_seeds() -> None:
    board = new_board([(0.25, 2.0)], negative_prompt="a kite", num_frames=41).resolve(DEFAULTS)
    windows = windows_of(board, WINDOW, OVERLAP_S)
    for window in windows:
        assert window.storyboard.model_copy(update={
            "seed": board.seed, "num_frames": board.num_frames, "subjects": board.subjects}) == board
    seeds = [window.storyboard.seed for window in windows]
    assert seeds[0] == board.seed
    assert len(set(seeds)) == len(windows) == 9
    # A window's noise is told by the storyboard's seed and its number, whatever the length of the video.
    shorter = windows_of(board.model_copy(update={"num_frames": 21}), WINDOW, OVERLAP_S)
    assert [window.storyboard.seed for window in shorter] == seeds[:4]
    other = windows_of(board.model_copy(update={"seed": 4}), WINDOW, OVERLAP_S)
    assert not set(seeds) & {window.storyboard.seed for window in other}
    Storyboard(**new_board().model_dump() | {"seed": max(seed for seed in seeds if seed)})  # within a seed's bounds
    unseeded = windows_of(board.model_copy(update={"seed": None}), WINDOW, OVERLAP_S)
    assert {window.storyboard.seed for window in unseeded} == {None}


@pytest.mark.parametrize(("window", "overlap_s", "message"), [
    (8, None, "window 8 frames must be of the form 4k\\+1 and at least 5; use 5 or 9"),
    (1, None, "window 1 frames must be .* at least 5; use 5"),
    (-3, None, "window -3 frames"),
    (9, -0.5, "overlap -0.5 s must be within 0 .. 0.5 s"),
    (9, 1.0, "overlap 1 s must be within 0 .. 0.5 s, as a window of 9 frames at 8 fps lasts 1 s"),
    (9, float("nan"), "overlap nan s must be within"),
    (13, 0.75, r"overlap 0.75 s at 8 fps makes 7 frames, .*; use 0.5 s \(5 frames\) or 1 s \(9 frames\)"),
])
def test_windows_that_cannot_be_are_told_at_once(
    pipeline: AlchemintPipeline, window: int, overlap_s: float | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        long_video(pipeline, new_board(), window, overlap_s)


def test_what_windows_set_themselves_cannot_be_given(pipeline: AlchemintPipeline) -> None:
    with pytest.raises(ValueError, match="latents, output_type: each window has its own"):
        long_video(pipeline, new_board(), output_type="pt", latents=None)


# Joints


def joint(num_frames: int, window: int, num_shared: int, value: Callable[[int, np.ndarray], np.ndarray]) -> np.ndarray:
    """Join windows of one pixel whose frames' values are told by the window's number and their numbers in the video."""
    places = timeline.windows(num_frames, window, num_shared)
    shared = [0, *(before[1] + 1 - after[0] for before, after in pairwise(places))]

    def frames(number: int, beginning: np.ndarray | None) -> np.ndarray:
        assert (0 if beginning is None else len(beginning)) == shared[number]
        values = value(number, np.arange(places[number][0], places[number][1] + 1))
        return values.astype(np.float32).reshape(-1, 1, 1, 1) / 255

    return np.array([int(frame[0, 0, 0]) for frame in joined(shared, frames, lambda: False)])


LATENTS = st.integers(0, 8)


@given(LATENTS.map(lambda k: 1 + 4 * k), LATENTS.map(lambda k: 5 + 4 * k), st.data())
def test_every_frame_comes_once_and_in_order(num_frames: int, window: int, data: st.DataObject) -> None:
    num_shared = 1 + 4 * data.draw(st.integers(0, (window - 5) // 4))
    # Windows that agree on a frame leave it as it is: the weights of each frame sum to 1.
    assert joint(num_frames, window, num_shared, lambda _, frames: frames).tolist() == list(range(num_frames))
    # Where all windows but one are black, weights lie within 0 and 1.
    bright = joint(num_frames, window, num_shared, lambda number, frames: np.full(len(frames), 255 * (number == 1)))
    assert bright.min() >= 0
    assert (bright.max() == 255) or len(timeline.windows(num_frames, window, num_shared)) != 2


def test_what_two_windows_share_goes_evenly_from_one_to_the_other() -> None:
    before, after = np.full((3, 2, 2, 3), 0.2), np.full((3, 2, 2, 3), 0.6)
    assert crossfade(before, after)[:, 0, 0, 0] == pytest.approx([0.3, 0.4, 0.5])
    steps = np.diff(joint(17, 9, 1, lambda number, frames: np.full(len(frames), 200 * number)))
    assert np.flatnonzero(steps).tolist() == [7, 8]
    assert steps.max() == 100


def test_memory_does_not_grow_with_length() -> None:
    def peak(num_windows: int) -> int:
        def frames(_number: int, _beginning: np.ndarray | None) -> np.ndarray:
            return np.ones((9, 64, 64, 3), np.float32)

        tracemalloc.start()
        count = sum(1 for _ in joined([0, *[5] * (num_windows - 1)], frames, lambda: False))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert count == 9 + 4 * (num_windows - 1)
        return most

    assert peak(40) < 1.1 * peak(3)


def test_no_window_outlives_the_next(pipeline: AlchemintPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    call, held = AlchemintPipeline.__call__, []
    videos: list[weakref.ref[np.ndarray]] = []

    def noted(self: AlchemintPipeline, *args: Any, **options: Any) -> Any:
        held.append(sum(video() is not None for video in videos))
        output = call(self, *args, **options)
        videos.append(weakref.ref(output[0]))
        return output

    monkeypatch.setattr(AlchemintPipeline, "__call__", noted)
    assert sum(1 for _ in long_video(pipeline, new_board(num_frames=25), overlap_s=OVERLAP_S,
                                     num_inference_steps=1)) == 25
    assert held == [0] * 5


# Whole videos


def test_a_long_video_begins_as_its_first_window(pipeline: AlchemintPipeline) -> None:
    board = new_board([(0.0, 0.75)], [(1.5, 2.5)])
    frames = made(pipeline, board)
    assert (frames.shape, frames.dtype) == ((21, 32, 32, 3), np.uint8)
    short = new_board([(0.0, 0.75)], num_frames=WINDOW)
    alone = media.as_uint8(pipeline(short, num_inference_steps=2).frames[0])
    assert np.array_equal(frames[:4], alone[:4])
    assert not np.array_equal(frames[4:9], alone[4:9])
    assert np.array_equal(made(pipeline, short), alone)


def test_equal_seeds_make_equal_videos(pipeline: AlchemintPipeline) -> None:
    board = new_board([(0.0, 2.0)], events=[Event(during=(1.0, 2.5), text="a duck waits")])
    assert np.array_equal(made(pipeline, board), made(pipeline, board))
    assert not np.array_equal(made(pipeline, board), made(pipeline, board.model_copy(update={"seed": 4})))


def test_a_window_goes_on_from_the_frames_that_were_shown(
    pipeline: AlchemintPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, known, alone, noise = AlchemintPipeline.__call__, [], [], []

    def noted(self: AlchemintPipeline, *args: Any, **options: Any) -> Any:
        known.append(options["known_latents"])
        noise.append(options["latents"])
        output = call(self, *args, **options)
        alone.append(output[0][0].copy())
        return output

    monkeypatch.setattr(AlchemintPipeline, "__call__", noted)
    made(pipeline, new_board([(0.0, 2.0)], num_frames=17))
    assert known[0] is None
    # 0..8, 4..12, 8..16: the third window begins with what the first two have made of frames 8..12 together.
    tails = [alone[0][4:9], alone[1][4:9].copy()]
    tails[1][:1] = alone[0][8] + 5 / 6 * (alone[1][4] - alone[0][8])
    for given_, tail in zip(known[1:], tails, strict=True):
        pixels = torch.from_numpy(tail).permute(3, 0, 1, 2)[None] * 2 - 1
        with torch.no_grad():
            torch.testing.assert_close(given_, encode_video(pipeline.vae, pixels), atol=1e-5, rtol=1e-4)
        assert given_.shape[2] == 2
    # The shared latents keep the noise that they came from; what is new has noise of its own.
    for before, after in pairwise(noise):
        assert torch.equal(after[:, :, :2], before[:, :, -2:])
        assert not torch.allclose(after[:, :, 2:], before[:, :, :1])


def test_noise_may_come_from_a_generator(pipeline: AlchemintPipeline) -> None:
    one, again, other = (made(pipeline, new_board(num_frames=13), generator=torch.Generator().manual_seed(seed))
                         for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one[9:], other[9:])


def test_an_absent_subject_is_left_out_and_the_others_keep_their_index(pipeline: AlchemintPipeline) -> None:
    board = new_board([(0.0, 0.5)], [(1.5, 2.5)], [(0.25, 0.5), (2.0, 2.5)]).resolve(pipeline.defaults)
    indices = []
    for window in windows_of(board, WINDOW, OVERLAP_S):
        references = pipeline._references([window.storyboard])
        indices.append([] if references is None else references.indices[0].tolist())
    # frames 0..8, 4..12, 8..16, 12..20; frames shown: 0..3, 12..20, and 2..3 and 16..20
    assert indices == [[0, 2], [1], [1, 2], [1, 2]]


def test_a_window_without_subjects_is_plain_text_to_video(pipeline: AlchemintPipeline) -> None:
    absent = new_board([(2.0, 2.5)]).resolve(pipeline.defaults)
    first = windows_of(absent, WINDOW, OVERLAP_S)[0].storyboard
    latents = [pipeline(board, num_inference_steps=2, output_type="latent").frames
               for board in (first, first.model_copy(update={"subjects": ()}))]
    assert torch.equal(*latents)


def test_a_callback_sees_the_steps_of_all_windows_and_may_interrupt(pipeline: AlchemintPipeline) -> None:
    seen: list[int] = []

    def watch(pipe: AlchemintPipeline, step: int, _timestep: torch.Tensor, _tensors: dict[str, Any]) -> dict[str, Any]:
        seen.append(step)
        pipe._interrupt = step == stop
        return {}

    stop = -1
    assert len(made(pipeline, new_board(), callback_on_step_end=watch)) == 21
    assert seen == list(range(2 * 4))
    stop = 2
    # It comes in the first of the second window's steps: 4 frames of the first window alone, 9 of the second.
    assert len(made(pipeline, new_board(), callback_on_step_end=watch)) == 13
