"""Video files read: their frames by number or by time, from disk or an object store.

Shapes: a frame is (height, width, 3) uint8 RGB, upright: turned and mirrored as the file says it is to be shown.
Pixels are taken to be square.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from types import TracebackType
from typing import Any, Self, cast

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import ColorRange, Colorspace, Interpolation

from alchemint import storage

EXACT = Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND
"""swscale's other settings are off by one or two in every colour."""

def read_video(address: storage.Address) -> tuple[np.ndarray, float]:
    """Return all frames of a video file, (frames, height, width, 3) uint8, and its frames per second.

    Raises FileNotFoundError, or ValueError for a file that holds no readable video.
    """
    with opened_video(address) as (file, stream):
        fps = float(stream.average_rate or stream.guessed_rate)
        frames: list[np.ndarray] = []
        turn = None
        for frame in file.decode(stream):
            turn = turn or Turn.told_by(frame)
            frames.append(rgb(frame, turn))
    if not frames:
        raise ValueError(f"{os.fspath(address)} holds no frame; save it again")
    return np.stack(frames), fps


def read_frames(address: storage.Address, numbers: Sequence[int], rate: float | None = None) -> np.ndarray:
    """Return frames of a video file by number, (len(numbers), height, width, 3) uint8; see `frames_of`."""
    if not len(numbers):
        raise ValueError(f"{os.fspath(address)}: no frame was asked for; name at least one")
    return np.stack(list(frames_of(address, numbers, rate)))


def frames_of(address: storage.Address, numbers: Sequence[int], rate: float | None = None,
              longest_side: int | None = None) -> Iterator[np.ndarray]:
    """Yield frames of a video file, a path or a URL, one by one, (height, width, 3) uint8.

    `numbers` must not descend; 0 is the first frame. Decoding begins at the keyframe before a frame, so that frames far
    into a long file cost little.

    rate: frame n is what is shown n / rate seconds after the first, the latest frame that has begun by then (or begins
    less than a quarter of a frame later); so in a video of variable frame rate a frame may come twice or not at all.
    Without, the video's own rate is taken, which must be constant. Where it is, both are the same.
    longest_side: frames whose longer side has more pixels are made smaller.

    Raises FileNotFoundError, or ValueError for a file that is no readable video or does not hold one of the frames.
    """
    numbers = [int(number) for number in numbers]
    if numbers != sorted(numbers) or (numbers and numbers[0] < 0):
        raise ValueError(f"{os.fspath(address)}: frame numbers must be 0 or more and must not descend, not {numbers}")
    with VideoReader(address, rate, longest_side) as video:
        for number in numbers:
            yield video.frame(number)


class VideoReader:
    """A video file held open. Going forward decodes every frame once; a jump begins at the keyframe before."""

    def __init__(self, address: storage.Address, rate: float | None = None, longest_side: int | None = None) -> None:
        """Open a file; arguments and errors are those of `frames_of`."""
        self._name = os.fspath(address)
        self._longest_side = longest_side
        self._open = ExitStack()
        self._file, self._stream = self._open.enter_context(opened_video(address))
        self._strict = rate is None
        self._rate = rate or self._stream.average_rate or self._stream.guessed_rate
        self._period = period_of(self._stream, self._rate)
        self._slack = 0.499 * self._period if self._strict else slack_of(self._stream, self._rate)
        self._first: int = self._stream.start_time or 0
        self._frames: Iterator[av.VideoFrame] = iter(())
        self._current: av.VideoFrame | None = None
        self._next: av.VideoFrame | None = None
        self._size: tuple[int, int] | None = None
        self._turn: Turn | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._frames, self._current, self._next = iter(()), None, None
        self._open.close()

    def frame(self, number: int) -> np.ndarray:
        """Return a frame (height, width, 3) uint8 by its number; errors are those of `frames_of`."""
        with _faults(self._name):
            frame = self._shown_at(self._first + number * self._period)
            if frame is None or (self._strict and number != round((self._time(frame) - self._first) / self._period)):
                raise ValueError(f"{self._name} holds no frame {number} (counted from 0, at {self._rate} frames a "
                                 "second all through); name frames that it has, or encode it anew at a constant rate")
            self._size = self._size or (frame.width, frame.height)
            if (frame.width, frame.height) != self._size:
                raise ValueError(f"{self._name}: its frames change their size from {self._size[0]} x {self._size[1]} "
                                 f"to {frame.width} x {frame.height} at frame {number}; encode it anew")
            self._turn = self._turn or Turn.told_by(frame)
            return rgb(frame, self._turn, self._longest_side)

    def _shown_at(self, pts: float) -> av.VideoFrame | None:
        """Return the latest frame that begins at or before a time, the first one at the earliest; None past the end."""
        latest = pts + self._slack
        if self._current is None or self._time(self._current) > latest or self._keyframe_lies_before(pts):
            self._jump(pts, latest)
        while self._next is not None and self._time(self._next) <= latest:
            self._current, self._next = self._next, next(self._frames, None)
        if self._current is not None and self._next is None and latest >= self._time(self._current) + self._period:
            return None
        return self._current

    def _jump(self, pts: float, latest: float) -> None:
        """Go to a keyframe from which what is shown at a time can be decoded: the one before or, where that is found by
        decoding time and shown later, or where frames that follow it need what lies before it, one further back."""
        second = float(1 / self._stream.time_base)
        # In MPEG's program and transport streams one lands amid a picture, and what is decoded first is damaged.
        run_in = second if self._file.format.name.startswith("mpeg") else 0.0
        back = run_in
        while True:
            at_start = pts - back <= self._first
            if not at_start:
                self._file.seek(int(pts - back), stream=self._stream, backward=True)
            elif self._current is not None or back > run_in:
                # Not all containers can be sought for their first frame.
                self._open.close()
                self._file, self._stream = self._open.enter_context(opened_video(self._name))
            self._frames = self._file.decode(self._stream)
            self._current, self._next = next(self._frames, None), next(self._frames, None)
            if at_start or (self._current is not None and self._time(self._current) <= latest - run_in):
                return
            back = max(2 * back, second)

    def _time(self, frame: av.VideoFrame) -> int:
        if frame.pts is None:
            raise ValueError(f"{self._name}: its frames carry no time stamps; put it into an mp4 file")
        return frame.pts

    def _keyframe_lies_before(self, pts: float) -> bool:
        """Tell whether there is one between what has been decoded and a time."""
        reached = self._next or self._current
        assert reached is not None
        entries = self._stream.index_entries
        place = entries.search_timestamp(int(pts), backward=True)
        # The index is by decoding time, before the time shown: a keyframe right ahead may be missed, none is invented.
        return place >= 0 and entries[place].timestamp > self._time(reached)


@contextmanager
def opened_video(address: storage.Address) -> Iterator[tuple[av.container.InputContainer, Any]]:
    """Open a video file and its first video stream that is no cover picture; errors are told as by `_faults`."""
    with ExitStack() as held, _faults(address):
        # FFmpeg opens plain paths itself: it reads them quicker than through Python.
        source = held.enter_context(storage.open_file(address)) if storage.is_url(address) else address
        # Some real files carry metadata that is not UTF-8.
        file = held.enter_context(av.open(source, "r", metadata_errors="ignore"))
        streams = [stream for stream in file.streams.video if not stream.disposition & Disposition.attached_pic]
        if not streams:
            raise ValueError(f"{os.fspath(address)} has no video stream; give a video file")
        yield file, streams[0]


@contextmanager
def _faults(address: storage.Address) -> Iterator[None]:
    """Tell what FFmpeg finds wrong as ValueError, and what is not there as FileNotFoundError, with the file's name."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{os.fspath(address)} does not exist; correct its path") from error
    except av.error.FFmpegError as error:
        raise ValueError(f"{os.fspath(address)} is not a readable video ({error.strerror}); save it again") from error


def period_of(stream: Any, rate: Fraction | float) -> float:
    """Return for how many ticks of the stream's clock a frame is shown."""
    return float(1 / (rate * stream.time_base))


def slack_of(stream: Any, rate: Fraction | float) -> float:
    """Return by how many ticks a frame may begin after its time, and still be taken to have begun: a quarter of a
    frame. Cameras' clocks tremble by milliseconds; without slack frames would come twice and others not at all."""
    return min(period_of(stream, rate), period_of(stream, stream.average_rate or rate)) / 4


@dataclass(frozen=True)
class Turn:
    """How a video's frames are to be turned and mirrored to be shown, by quarter turns."""

    transposed: bool = False
    upside_down: bool = False
    mirrored: bool = False

    @classmethod
    def told_by(cls, frame: av.VideoFrame) -> "Turn":
        """Return what a frame's display matrix says, which is that of the whole video: (x, y) -> (ax + cy, bx + dy).

        To be asked once a video: PyAV makes side data and frame hold each other, and memory waits for the collector.
        """
        matrix = cast(bytes | None, frame.side_data.get("DISPLAYMATRIX"))
        if matrix is None:
            return cls()
        a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
        return cls(True, b < 0, c < 0) if abs(b) > abs(a) else cls(False, d < 0, a < 0)

    def of(self, pixels: np.ndarray) -> np.ndarray:
        """Return pixels (height, width, 3) turned."""
        if self.transposed:
            pixels = pixels.transpose(1, 0, 2)
        return np.ascontiguousarray(pixels[::-1 if self.upside_down else 1, ::-1 if self.mirrored else 1])


def rgb(frame: av.VideoFrame, turn: Turn, longest_side: int | None = None) -> np.ndarray:
    """Return a decoded frame as it is shown, made smaller where its longer side exceeds `longest_side`."""
    known = {int(space) for space in Colorspace}
    # Untagged files follow the habit of players: BT.709 from HD on, BT.601 below.
    guess = Colorspace.ITU709 if frame.height >= 720 else Colorspace.ITU601
    space = Colorspace(frame.colorspace) if frame.colorspace in known else guess
    shrink = min(1.0, longest_side / max(frame.width, frame.height)) if longest_side else 1.0
    pixels = frame.reformat(
        width=max(1, round(frame.width * shrink)), height=max(1, round(frame.height * shrink)), format="rgb24",
        src_colorspace=space, dst_color_range=ColorRange.JPEG,
        interpolation=EXACT if shrink == 1 else Interpolation.AREA,
        # Threads that a frame keeps for this would be waited for, in vain, by a forked process that collects the frame.
        threads=1,
    ).to_ndarray()
    return turn.of(pixels)
