"""A clip's frames read as they are needed, in chunks, ahead of who goes through them: memory is bounded.

Decoding runs in a thread of its own, so that it overlaps with what is done with the frames, on a GPU or not.
"""

import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import numpy as np

from alchemint import storage
from alchemint.video_files import VideoReader

CHUNK_BYTES = 64 << 20

_LOOK_BACK = 4
"""Going back by fewer frames is a look back and no change of direction."""


class LazyFrames:
    """Frames of a video file by number, `video[n]` (height, width, 3) uint8: `perception.sightings.Frames`.

    At most two chunks are in memory: the one in use and, in the direction in which one goes, the next, or just after a
    border the last. Going forward decodes each frame once; going backward begins each chunk at the keyframe before it;
    who jumps waits for a chunk each time. What can't be read is told to who asks for it. For use from one thread at a
    time. It can be pickled, and begins anew where it is unpickled. `close`, or being forgotten, ends its thread.
    """

    def __init__(self, address: storage.Address, first_frame: int, num_frames: int, rate: float,
                 chunk_bytes: int = CHUNK_BYTES) -> None:
        """Take `num_frames` frames from `first_frame` on; `address` and `rate` are those of `video_files.frames_of`.

        chunk_bytes: size of a chunk, at most, but for a single frame that is larger. Nothing is read yet: the errors of
        `frames_of` come with the first use.
        """
        self._arguments = address, first_frame, num_frames, rate, chunk_bytes
        self._num_frames = num_frames
        self._chunk_bytes = chunk_bytes
        self._decoder = _Decoder(address, first_frame, rate)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="frames")
        # The executor ends its thread when it is forgotten itself; what the thread is at is not to be waited for.
        weakref.finalize(self, self._decoder.want, ())
        self._chunks: dict[int, Future[list[np.ndarray]]] = {}
        self._size: tuple[int, ...] | None = None
        self._furthest = 0
        self._forward = True

    @property
    def shape(self) -> tuple[int, ...]:
        """(frames, height, width, 3); its first use decodes a frame."""
        if self._size is None:
            self._size = self._thread.submit(self._decoder.size).result()
        return self._num_frames, *self._size

    def __len__(self) -> int:
        return self._num_frames

    def __getitem__(self, number: int) -> np.ndarray:
        """Return a frame (height, width, 3) uint8; IndexError outside of the clip."""
        if not 0 <= number < self._num_frames:
            raise IndexError(f"frame {number} of a clip of {self._num_frames} frames, which are counted from 0")
        _, height, width, channels = self.shape
        length = max(1, self._chunk_bytes // (height * width * channels))
        self._go(number)
        place = number // length
        self._hold(place, self._beside(place, length), length)
        return self._chunks[place].result()[number - place * length]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return LazyFrames, self._arguments

    def close(self) -> None:
        """End the thread and close the file; nothing can be read any more."""
        self._decoder.want(())
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._decoder.close()
        self._chunks.clear()

    def _go(self, number: int) -> None:
        """Note how far one has come, and in which direction."""
        further = number - self._furthest if self._forward else self._furthest - number
        if further <= -_LOOK_BACK:
            self._forward = not self._forward
        if further >= 0 or further <= -_LOOK_BACK:
            self._furthest = number

    def _beside(self, place: int, length: int) -> int:
        """Return which chunk is to be held beside the one that is read."""
        front = self._furthest // length
        if front != place:
            return front
        last = min((front + 1) * length, self._num_frames) - 1
        entered, step = (self._furthest - front * length, 1) if self._forward else (last - self._furthest, -1)
        goes_on = 0 <= (front + step) * length < self._num_frames
        # Just after a border the chunk before is kept, for who looks back; at the end, for who turns.
        return front + step if goes_on and entered >= min(_LOOK_BACK, length - 1) else front - step

    def _hold(self, place: int, beside: int, length: int) -> None:
        """Hold two chunks. Of those that were passed, only the one that is read is decoded again."""
        ahead = (beside > place) == self._forward
        held = [place, beside] if ahead or beside in self._chunks else [place]
        for gone in set(self._chunks) - set(held):
            self._chunks.pop(gone).cancel()
        self._decoder.want(held)
        for chunk in held:
            if chunk not in self._chunks:
                numbers = range(chunk * length, min((chunk + 1) * length, self._num_frames))
                self._chunks[chunk] = self._thread.submit(self._decoder.chunk, chunk, numbers)


class _Decoder:
    """Decodes chunks in the thread of a LazyFrames, which it does not know, so that that can be forgotten."""

    def __init__(self, address: storage.Address, first_frame: int, rate: float) -> None:
        self._address = address
        self._first_frame = first_frame
        self._rate = rate
        self._video: VideoReader | None = None
        self._wanted: frozenset[int] = frozenset()

    def want(self, chunks: Sequence[int]) -> None:
        """Tell which chunks are still wanted; the others are given up."""
        self._wanted = frozenset(chunks)

    def size(self) -> tuple[int, ...]:
        """Return (height, width, 3)."""
        return self._frame(0).shape

    def chunk(self, place: int, numbers: Sequence[int]) -> list[np.ndarray]:
        """Return frames; each is an array of its own, so that who keeps one does not keep the chunk."""
        frames = []
        for number in numbers:
            if place not in self._wanted:
                return []
            frames.append(self._frame(number))
        return frames

    def close(self) -> None:
        if self._video is not None:
            self._video.close()
            self._video = None

    def _frame(self, number: int) -> np.ndarray:
        try:
            if self._video is None:
                self._video = VideoReader(self._address, self._rate)
            return self._video.frame(self._first_frame + number)
        except BaseException:
            # Decoding can't go on from where it failed.
            self.close()
            raise
