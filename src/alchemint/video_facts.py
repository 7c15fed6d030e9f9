"""What is known of a video file without looking at its frames: their size, their number, and how fast they go."""

import os
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, cast

import av
import numpy as np

from alchemint import storage
from alchemint.video_files import Turn, opened_video, period_of, rgb, slack_of

_MISSING_S = 0.5
"""By so much a file may fall short of the duration that it tells, where only that tells that it breaks off."""


@dataclass(frozen=True)
class VideoFacts:
    """What is known of a video file: `fps` frames a second, of `num_frames` frames `width` x `height` as they are shown
    (upright). `constant` tells whether all frames are shown for the same time, but for a quarter of a frame; of others
    fps is the mean, and frame n is what is shown n / fps seconds after the first (see `video_files.frames_of`)."""

    fps: float
    num_frames: int
    width: int
    height: int
    constant: bool = True


def probe(address: storage.Address) -> VideoFacts:
    """Return what is known of a video file, a path or a URL. All of it is read, but only its first frame is decoded.

    Raises ValueError with one line for what does not exist or is no video, for one that cannot be decoded, holds no
    frame or no time stamps, and for one that breaks off: what of it is there is not what was meant to be, and times
    that somebody gave for it may lie behind its end.
    """
    try:
        with opened_video(address) as (file, stream):
            if file.format.name == "image2" or file.format.name.endswith("_pipe"):
                raise ValueError(f"{os.fspath(address)} is a picture, not a video; give a video file")
            frame, times, fault = _all_packets(os.fspath(address), file, stream)
            if not times:
                raise ValueError(f"{os.fspath(address)} holds no frame{fault and f': it {fault}'}; save it again")
            if fault:
                raise ValueError(f"{os.fspath(address)} {fault}; fetch or save it anew")
            if frame is None:
                raise ValueError(f"{os.fspath(address)} holds no frame that can be decoded; save it again")
            origin = times[0] if stream.start_time is None else stream.start_time
            rate, constant = _rate(stream, np.asarray(times, np.float64) - origin)
            num_frames = int((times[-1] - origin + slack_of(stream, rate)) / period_of(stream, rate)) + 1
            height, width = rgb(frame, Turn.told_by(frame)).shape[:2]
    except FileNotFoundError as error:
        raise ValueError(str(error)) from error
    return VideoFacts(float(rate), len(times) if constant else num_frames, width, height, constant)


def _all_packets(name: str, file: av.container.InputContainer,
                 stream: Any) -> tuple[av.VideoFrame | None, list[int], str]:
    """Return a file's first frame, the times of all its frames in order, and how it breaks off ("": it does not)."""
    frame: av.VideoFrame | None = None
    times, num_packets, corrupt, end_s = [], 0, False, 0.0
    for packet in file.demux():
        time = packet.dts if packet.pts is None else packet.pts
        if packet.size and time is not None and packet.time_base:
            end_s = max(end_s, float((time + (packet.duration or 0)) * packet.time_base))
        if packet.stream != stream:
            continue
        if frame is None:
            frame = next(iter(cast(list[av.VideoFrame], packet.decode())), None)
        if packet.size:
            num_packets, corrupt = num_packets + 1, packet.is_corrupt
        if packet.size and not packet.is_discard:
            if time is None:
                raise ValueError(f"{name}: its frames carry no time stamps; put it into an mp4 file")
            times.append(time)
    # An mp4 file's index tells all packets, other files' indices only some.
    num_told = sum(entry.size > 0 for entry in stream.index_entries)
    fault = ""
    if corrupt or num_told > num_packets:
        fault = f"breaks off after {num_packets - corrupt} of {max(num_told, num_packets)} frames"
    elif stream.duration is None and file.duration is not None and file.duration / 1e6 - end_s > _MISSING_S:
        # Matroska tells how long a file is, not how long a stream.
        fault = f"breaks off after {end_s:.1f} of {file.duration / 1e6:.1f} s"
    return frame, sorted(times), fault


def _rate(stream: Any, times: np.ndarray) -> tuple[Fraction, bool]:
    """Return the frames per second of frames shown at times (ticks after the first), and whether it is constant."""
    # A single frame is shown for as long as any.
    rates = [rate for rate in (stream.average_rate, stream.guessed_rate) if rate] or [Fraction(1)]
    if len(times) > 1 and times[-1] > times[0]:
        rates.append(Fraction(len(times) - 1) / (Fraction(times[-1] - times[0]) * stream.time_base))
    for rate in rates:
        if np.abs(times - np.arange(len(times)) * period_of(stream, rate)).max() <= slack_of(stream, rate):
            return rate, True
    return rates[-1], False
