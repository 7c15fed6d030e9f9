"""Seconds, frames and latent positions: the only place that converts between them.

Three axes are in use:

    seconds   what users write. Intervals are half-open: [start, end).
    frames    pixel frame f of a video is shown at f / fps seconds, f = 0 .. num_frames - 1.
    latent    the time axis inside the model. Wan's VAE is causal with stride 4: latent 0 holds frame 0,
              latent k >= 1 holds frames 4k-3 .. 4k. A frame's position tau on that axis is a float
              such that the centre of latent k's frames is exactly k.

A video of num_frames frames spans (num_frames - 1) / fps seconds from its first frame to its last (Wan's 81 frames
at 16 fps are "5 seconds"). The last frame is shown at exactly that time; an interval that ends there includes it, so
that "until the end" means the whole rest of the video.
"""

import math
from collections.abc import Sequence

TEMPORAL_STRIDE = 4
"""Pixel frames in a latent frame (all latents but the first), a property of Wan's video VAE."""

MOST_LATENTS_SHARED = 3
"""Latents that the windows of a long video share unless told otherwise; where a window has fewer than six, half."""

_TOLERANCE = 1e-6
"""Slack in frames for seconds that were computed in floating point, e.g. 0.1 * 3."""

Seconds = tuple[float, float]
Frames = tuple[int, int]
LatentSpan = tuple[float, float]


def duration_s(num_frames: int, fps: float) -> float:
    """Return the time in seconds at which the last of `num_frames` frames is shown."""
    return (num_frames - 1) / fps


def is_valid_num_frames(num_frames: int) -> bool:
    """Tell whether the VAE can hold exactly `num_frames` frames: 4k+1 with k >= 0."""
    return num_frames >= 1 and num_frames % TEMPORAL_STRIDE == 1


def nearest_num_frames(num_frames: float) -> list[int]:
    """Return the valid frame counts next to `num_frames`: the one below (if any) and the one above."""
    below = TEMPORAL_STRIDE * math.floor((num_frames - 1) / TEMPORAL_STRIDE) + 1
    return [count for count in (below, below + TEMPORAL_STRIDE) if count >= 1]


def num_frames_for(duration: float, fps: float, name: str = "duration") -> int:
    """Return the frame count whose last frame is shown at `duration` seconds.

    Raises ValueError, with the two nearest durations that fit, when that is no whole number of the form 4k+1; `name`
    is what the user knows the duration by.
    """
    exact = duration * fps + 1
    num_frames = round(exact)
    if abs(exact - num_frames) <= 1e-3 and is_valid_num_frames(num_frames):
        return num_frames
    mends = " or ".join(f"{duration_s(count, fps):g} s ({count} frames)" for count in nearest_num_frames(exact))
    raise ValueError(f"{name} {duration:g} s at {fps:g} fps makes {exact:g} frames, "
                     f"but the count must be 4k+1; use {mends}")


def num_latents(num_frames: int) -> int:
    """Return T, the number of latent frames that hold `num_frames` (4k+1) pixel frames."""
    assert is_valid_num_frames(num_frames), num_frames
    return 1 + (num_frames - 1) // TEMPORAL_STRIDE


def frames_of_latent(latent: int) -> Frames:
    """Return the first and last pixel frame that latent frame `latent` holds."""
    return (0, 0) if latent == 0 else (TEMPORAL_STRIDE * latent - 3, TEMPORAL_STRIDE * latent)


def frames_in(interval: Seconds, fps: float, num_frames: int) -> Frames | None:
    """Return the first and the last frame (inclusive) shown within [start, end), or None when there is none.

    The last frame of the video belongs to an interval that ends at the video's duration.
    """
    start, end = interval
    first = max(0, math.ceil(start * fps - _TOLERANCE))
    last = math.ceil(end * fps - _TOLERANCE) - 1
    if end * fps >= num_frames - 1 - _TOLERANCE:
        last = num_frames - 1
    return (first, last) if first <= last else None


def seconds_of(frames: Frames, fps: float, num_frames: int) -> Seconds:
    """Return the interval [start, end) in seconds of the frames first .. last; the inverse of `frames_in`.

    An interval that ends with the last frame but one ends half a frame before the video does: at the video's end it
    would include the last frame. One of the last frame alone starts half a frame before it, so that it is not empty.
    """
    first, last = frames
    from_the_end = num_frames - 1 - last
    end = duration_s(num_frames, fps) if from_the_end == 0 else (last + (0.5 if from_the_end == 1 else 1)) / fps
    return (first - (0.5 if 0 < first == num_frames - 1 else 0)) / fps, end


def tau(frame: int) -> float:
    """Return the position of a pixel frame on the latent axis: 0 for frame 0, (f + 1.5) / 4 for f >= 1."""
    return 0.0 if frame == 0 else (frame + 1.5) / TEMPORAL_STRIDE


def latent_span(frames: Frames) -> LatentSpan:
    """Return [t0, t1] on the latent axis of the frames first .. last."""
    return tau(frames[0]), tau(frames[1])


def latent_span_of(interval: Seconds, fps: float, num_frames: int) -> LatentSpan:
    """Return [t0, t1] on the latent axis of an interval in seconds; ValueError when no frame falls in it."""
    frames = frames_in(interval, fps, num_frames)
    if frames is None:
        raise ValueError(f"interval [{interval[0]:g}, {interval[1]:g}) s holds no frame at {fps:g} fps; "
                         f"make it at least {1 / fps:.3g} s long")
    return latent_span(frames)


def windows(num_frames: int, window: int, num_shared: int) -> list[Frames]:
    """Return the first and last frame of the windows in which a long video is made, one after the other.

    All are `window` frames long and share `num_shared` frames with the one before; the last ends with the video, for
    which it may share more. A video that fits into a window is one itself. All counts are of the form 4k+1, and so all
    windows begin at multiples of 4 and share 4k+1 frames: whole latents of their own.
    """
    assert all(map(is_valid_num_frames, (num_frames, window, num_shared))), (num_frames, window, num_shared)
    assert num_shared < window, (num_shared, window)
    if num_frames <= window:
        return [(0, num_frames - 1)]
    starts = [*range(0, num_frames - window, window - num_shared), num_frames - window]
    return [(start, start + window - 1) for start in starts]


def num_shared_frames(overlap_s: float | None, window: int, fps: float) -> int:
    """Return how many frames windows share that overlap for `overlap_s` seconds, from the first shared to the last.

    None is for three latents, or half a window that has fewer than six. Raises ValueError for what is no whole number
    of the form 4k+1, with the nearest that are, and for what leaves a window nothing of its own.
    """
    if overlap_s is None:
        latents = max(1, min(MOST_LATENTS_SHARED, num_latents(window) // 2))
        return frames_of_latent(latents - 1)[1] + 1
    most = duration_s(window - TEMPORAL_STRIDE, fps)
    if not 0 <= overlap_s <= most + _TOLERANCE:
        raise ValueError(f"overlap {overlap_s:g} s must be within 0 .. {most:g} s, as a window of {window} frames at "
                         f"{fps:g} fps lasts {duration_s(window, fps):g} s; change it or leave it out")
    return num_frames_for(overlap_s, fps, "overlap")


def window_frames(start: int, num_frames: int, fps: float, clip_fps: float) -> list[int]:
    """Return the frames of a clip that a window of `num_frames` at `fps` shows: frame f is start + f * clip_fps / fps,
    rounded (halves up). A clip slower than `fps` shows some of its frames twice."""
    return [start + math.floor(frame * clip_fps / fps + 0.5 + _TOLERANCE) for frame in range(num_frames)]


def frames_of_window(frames: Frames, window: Sequence[int]) -> Frames | None:
    """Return the first and last frame of a window that lie among a clip's frames first .. last, or None.

    `window` holds the clip's frame for each of the window's.
    """
    inside = [number for number, frame in enumerate(window) if frames[0] <= frame <= frames[1]]
    return (inside[0], inside[-1]) if inside else None


def runs(present: Sequence[bool]) -> list[Frames]:
    """Return the maximal runs of true values as (first, last) frames, inclusive."""
    found: list[Frames] = []
    for frame, there in enumerate(present):
        if there and found and found[-1][1] == frame - 1:
            found[-1] = (found[-1][0], frame)
        elif there:
            found.append((frame, frame))
    return found
