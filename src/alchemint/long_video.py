"""Videos longer than a model's window: made window by window, each going on from the last frames of the one before.

    frames = long_video(pipe, load_storyboard("long.yaml"))
    write_video("long.mp4", frames, fps)

Each window is a storyboard of its own, with the part of every interval that falls into it (`windows_of`). The frames
that two windows share are encoded anew and given to the second as known latents: the video VAE is causal, a window's
first latent holds one frame and not four, so that latents of the first window would not fit. They keep the noise that
they came from, so that the second window agrees with them from its first step on. What it makes of the shared frames is
cross-faded with what the first did. No more than one window's frames are kept at any time.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from alchemint import media, timeline
from alchemint.storyboard import Event, Storyboard, Subject

if TYPE_CHECKING:
    import torch

    from alchemint.pipeline import AlchemintPipeline, StepCallback

_TAKEN = {"known_latents", "latents", "output_type", "return_dict"}
"""Arguments of the pipeline that windows set themselves."""


class Window(NamedTuple):
    """A part of a long video that is made at once: its first and last frame, how many it shares with the one before
    (0 for the first), and its storyboard."""

    frames: timeline.Frames
    num_shared: int
    storyboard: Storyboard


def windows_of(storyboard: Storyboard, num_frames: int, overlap_s: float | None = None) -> list[Window]:
    """Return the windows, `num_frames` frames long each, in which a resolved storyboard is made; one if it fits.

    overlap_s: seconds from the first to the last frame that two windows share; None is for three latents. All windows
    have the storyboard's prompt, their parts of its intervals and events, and its subjects in their order, so that each
    keeps its index; one without a part in a window does not appear there at all. The first has the storyboard's seed,
    the others seeds drawn from it.

    Raises ValueError when num_frames is not 4k+1 or overlap_s does not fit to it.
    """
    assert storyboard.fps, "resolve the storyboard first"
    assert storyboard.num_frames, "resolve the storyboard first"
    if num_frames < 1 + timeline.TEMPORAL_STRIDE or not timeline.is_valid_num_frames(num_frames):
        mends = " or ".join(str(count) for count in timeline.nearest_num_frames(max(num_frames, 5)) if count > 1)
        raise ValueError(f"window {num_frames} frames must be of the form 4k+1 and at least 5; use {mends}")
    num_shared = timeline.num_shared_frames(overlap_s, num_frames, storyboard.fps)
    places = timeline.windows(storyboard.num_frames, num_frames, num_shared)
    shared = [0, *(before[1] + 1 - after[0] for before, after in pairwise(places))]
    return [Window(frames, count, _part(storyboard, frames, number))
            for number, (frames, count) in enumerate(zip(places, shared, strict=True))]


def long_video(
    pipeline: "AlchemintPipeline",
    storyboard: Storyboard,
    num_frames: int | None = None,
    overlap_s: float | None = None,
    num_inference_steps: int = 40,
    callback_on_step_end: "StepCallback | None" = None,
    **options: Any,
) -> Iterator[np.ndarray]:
    """Make a video of any length; yield its frames in order, (height, width, 3) uint8.

    num_frames: of a window, the model's own when None. overlap_s: as in `windows_of`. callback_on_step_end: as the
    pipeline's, with steps counted through all windows. options: the pipeline's others.

    Until the second window begins to fade in, the video is the one that the pipeline makes of the first window alone.
    When a callback interrupts the pipeline, the video ends with that window. Raises what the pipeline and `windows_of`
    raise, before the first frame is asked for where it can be told by then.
    """
    if taken := sorted(_TAKEN & options.keys()):
        raise ValueError(f"{', '.join(taken)}: each window has its own; leave out")
    board = storyboard.resolve(pipeline.defaults)
    windows = windows_of(board, pipeline.defaults.num_frames if num_frames is None else num_frames, overlap_s)

    noise: torch.Tensor | None = None

    def made(number: int, beginning: np.ndarray | None) -> np.ndarray:
        """Return a window's frames, (frames, height, width, 3) float 0..1."""
        nonlocal noise
        noise = _noise_of(pipeline, windows[number], noise, options.get("generator"))

        def on_step_end(pipe: "AlchemintPipeline", step: int, timestep: "torch.Tensor",
                        tensors: "dict[str, torch.Tensor]") -> "dict[str, torch.Tensor]":
            assert callback_on_step_end is not None
            return callback_on_step_end(pipe, number * num_inference_steps + step, timestep, tensors)

        frames: np.ndarray = pipeline(
            windows[number].storyboard, num_inference_steps=num_inference_steps, output_type="np", return_dict=False,
            latents=noise, known_latents=None if beginning is None else _latents_of(pipeline, beginning),
            callback_on_step_end=None if callback_on_step_end is None else on_step_end, **options)[0][0]
        return frames

    return joined([window.num_shared for window in windows], made, lambda: pipeline.interrupt)


def joined(
    num_shared: list[int], made: Callable[[int, np.ndarray | None], np.ndarray], ends: Callable[[], bool]
) -> Iterator[np.ndarray]:
    """Join windows to one video; yield its frames (height, width, 3) uint8.

    num_shared: how many frames each window shares with the one before, 0 for the first. made: gives a window's frames
    (frames, height, width, 3) float 0..1, from its number and the shared frames as they were until then. ends: tells
    after a window whether it is the last, whatever follows.
    """
    last, beginning = len(num_shared) - 1, None
    for number, count in enumerate(num_shared):
        frames = made(number, beginning)
        if beginning is not None:
            frames[:count] = crossfade(beginning, frames[:count])
        over = number == last or ends()
        end = len(frames) if over else len(frames) - num_shared[number + 1]
        # Copied, so that the frames before it do not stay while the next window is made.
        beginning = frames[end:].copy()
        finished = media.as_uint8(frames[:end])
        del frames
        yield from finished
        del finished
        if over:
            return


def crossfade(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return frames (frames, height, width, channels) that go from `before` to `after` evenly, without reaching either:
    of n shared frames, frame i has (i + 1) / (n + 1) of `after`."""
    weights = (np.arange(1, len(before) + 1, dtype=before.dtype) / (len(before) + 1)).reshape(-1, 1, 1, 1)
    faded: np.ndarray = before + weights * (after - before)
    return faded


def _part(storyboard: Storyboard, frames: timeline.Frames, number: int) -> Storyboard:
    """Return the storyboard of a window: its frames, its parts of the intervals, its seed."""
    fps, total = storyboard.fps, storyboard.num_frames
    assert fps, "resolve the storyboard first"
    assert total, "resolve the storyboard first"
    window = range(frames[0], frames[1] + 1)

    def part_of(interval: timeline.Seconds) -> timeline.Seconds | None:
        shown = timeline.frames_in(interval, fps, total)
        within = None if shown is None else timeline.frames_of_window(shown, window)
        return None if within is None else timeline.seconds_of(within, fps, len(window))

    def of_subject(subject: Subject) -> Subject:
        parts = map(part_of, subject.appears)
        return subject.model_copy(update={"appears": tuple(part for part in parts if part is not None)})

    parts = [(event, part_of(event.during)) for event in storyboard.events]
    events: list[Event] = [event.model_copy(update={"during": part}) for event, part in parts if part is not None]
    return storyboard.model_copy(update={
        "num_frames": len(window),
        "seed": _seed_of(storyboard.seed, number),
        "subjects": tuple(map(of_subject, storyboard.subjects)),
        "events": tuple(events),
    })


def _seed_of(seed: int | None, number: int) -> int | None:
    """Return the seed of a window's noise; that of the first is the storyboard's own."""
    if seed is None or number == 0:
        return seed
    return int(np.random.SeedSequence((seed, number)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _noise_of(
    pipeline: "AlchemintPipeline", window: Window, before: "torch.Tensor | None", generator: "torch.Generator | None"
) -> "torch.Tensor":
    """Return a window's noise (1, C, T, H, W): its own, but for the shared latents that of the window before."""
    noise = pipeline._noise([window.storyboard], generator, None)
    if before is not None:
        num_shared = timeline.num_latents(window.num_shared)
        noise[:, :, :num_shared] = before[:, :, -num_shared:]
    return noise


def _latents_of(pipeline: "AlchemintPipeline", frames: np.ndarray) -> "torch.Tensor":
    """Return the latents (1, C, T, H, W) of a video that begins with frames (frames, height, width, 3) float 0..1."""
    import torch

    from alchemint.model.latents import encode_video

    pixels = torch.from_numpy(frames).permute(3, 0, 1, 2).unsqueeze(0) * 2 - 1
    with torch.no_grad():
        latents = encode_video(pipeline.vae, pixels.to(pipeline._execution_device))
    pipeline.maybe_free_model_hooks()  # else an offloaded VAE stays on the device while the window is denoised
    return latents
