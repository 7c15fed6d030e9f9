"""Frames of a clip as they are needed: the right ones, each chunk decoded once, two in memory, no thread left."""

import gc
import pickle
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest

from alchemint import lazy_frames, video_facts, video_files
from alchemint.lazy_frames import LazyFrames
from tests.made_videos import made, random_blocks

FRAME_BYTES = 32 * 32 * 3
CHUNK = 8


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("lazy") / "a.mp4", random_blocks(101), x264="bframes=2:keyint=30")


@pytest.fixture(scope="module")
def frames(path: Path) -> np.ndarray:
    return video_files.read_video(path)[0]


@pytest.fixture
def chunks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The chunks that are decoded, in order."""
    decoded: list[int] = []
    real = lazy_frames._Decoder.chunk
    monkeypatch.setattr(lazy_frames._Decoder, "chunk",
                        lambda self, place, numbers: (decoded.append(place), real(self, place, numbers))[1])
    return decoded


def opened(path: Path, first_frame: int = 0, num_frames: int = 101, chunk: int = CHUNK) -> LazyFrames:
    return LazyFrames(path, first_frame, num_frames, 25.0, chunk * FRAME_BYTES)


def walks(num_frames: int) -> Iterator[list[int]]:
    yield list(range(num_frames))
    yield list(reversed(range(num_frames)))
    yield [*range(num_frames // 2, num_frames), *reversed(range(num_frames // 2))]
    yield [*range(0, num_frames, 3), *range(num_frames - 1, -1, -3)]
    yield np.random.default_rng(0).integers(0, num_frames, 40).tolist()
    yield [min(max(at, 0), num_frames - 1)
           for at in np.cumsum(np.random.default_rng(1).integers(-5, 8, 150)).tolist()]


@pytest.mark.parametrize("walk", range(6))
@pytest.mark.parametrize(("first_frame", "num_frames"), [(0, 101), (13, 50), (100, 1)])
@pytest.mark.parametrize("chunk", [1, 2, CHUNK, 1000])
def test_any_walk_meets_the_frames_of_the_whole_video(path: Path, frames: np.ndarray, walk: int, first_frame: int,
                                                      num_frames: int, chunk: int) -> None:
    with opened(path, first_frame, num_frames, chunk) as video:
        assert (video.shape, len(video)) == ((num_frames, 32, 32, 3), num_frames)
        for number in list(walks(num_frames))[walk]:
            assert np.array_equal(video[number], frames[first_frame + number]), number
            assert len(video._chunks) <= 2


def test_forward_and_backward_decode_each_chunk_once(path: Path, chunks: list[int]) -> None:
    with opened(path) as video:
        for number in range(101):
            video[number]
        assert chunks == list(range(13))
        chunks.clear()
        for number in reversed(range(101)):
            video[number]
        assert chunks == list(reversed(range(11)))  # the last two are there from the way forward


def test_forward_decodes_each_frame_once_and_jumps_nowhere(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jumps = []
    real = video_files.VideoReader._jump
    monkeypatch.setattr(video_files.VideoReader, "_jump", lambda self, *at: (jumps.append(at), real(self, *at)))
    with opened(path) as video:
        for number in range(101):
            video[number]
    assert len(jumps) <= 1 + 100 // 30  # at most once a keyframe


def test_who_looks_back_across_a_border_finds_both_chunks(path: Path, chunks: list[int]) -> None:
    with opened(path) as video:
        for number in range(3, 101):
            video[number]
            video[number - 3]
        assert chunks == list(range(13))


@pytest.mark.parametrize(("begin", "end", "step", "next_chunk"), [(0, 6, 1, 1), (100, 94, -1, 11), (63, 57, -1, 6)])
def test_the_next_chunk_is_decoded_ahead(path: Path, begin: int, end: int, step: int, next_chunk: int) -> None:
    with opened(path) as video:
        for number in range(begin, end, step):
            video[number]
        deadline = time.monotonic() + 10
        while not (next_chunk in video._chunks and video._chunks[next_chunk].done()):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_chunk_that_nobody_wants_any_more_is_given_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    real = lazy_frames._Decoder._frame

    def slow(self: lazy_frames._Decoder, number: int) -> np.ndarray:
        decoded.append(number)
        time.sleep(0.02 if 16 <= number < 24 else 0)
        return real(self, number)

    monkeypatch.setattr(lazy_frames._Decoder, "_frame", slow)
    with opened(path) as video:
        for number in range(8, 14):
            video[number]  # chunk 2 is begun
        while 16 not in decoded:
            time.sleep(0.001)
        video[90]
        assert 23 not in decoded


@pytest.mark.slow
def test_memory_does_not_grow_with_the_clip(tmp_path: Path) -> None:
    path = made(tmp_path / "a.mp4", np.tile(random_blocks(300), (10, 1, 1, 1)), x264="bframes=2:keyint=50:ref=1")
    chunk_bytes = 40 * FRAME_BYTES
    with LazyFrames(path, 0, 3000, 25.0, chunk_bytes) as video:
        tracemalloc.start()
        for number in [*range(3000), *reversed(range(1500))]:
            video[number]
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 2.5 * chunk_bytes + 500_000 < 3000 * FRAME_BYTES / 5


def test_what_cannot_be_read_is_told_to_the_reader(tmp_path: Path, path: Path, frames: np.ndarray) -> None:
    with opened(tmp_path / "none.mp4") as video, pytest.raises(FileNotFoundError, match=r"none\.mp4 does not exist"):
        video[0]
    with opened(path, 0, 120) as video:
        for number in range(96):
            assert np.array_equal(video[number], frames[number])
        for _ in range(2):
            with pytest.raises(ValueError, match="holds no frame 101 "):
                video[101]
        assert np.array_equal(video[3], frames[3])
        for outside in (-1, 120):
            with pytest.raises(IndexError, match="counted from 0"):
                video[outside]


def num_threads() -> int:
    return sum(thread.name.startswith("frames") for thread in threading.enumerate())


def test_no_thread_outlives_it(path: Path) -> None:
    before = num_threads()
    with opened(path) as video:
        video[50]
        assert num_threads() == before + 1
    assert num_threads() == before
    video = opened(path)
    for number in range(6):
        video[number]
    del video
    gc.collect()
    deadline = time.monotonic() + 10
    while num_threads() > before:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with opened(path) as video:
        pass
    with pytest.raises(RuntimeError, match="shutdown"):
        video[0]


def test_it_begins_anew_where_it_is_unpickled(path: Path, frames: np.ndarray) -> None:
    with opened(path, 5, 20) as video:
        video[3]
        with pickle.loads(pickle.dumps(video)) as copy:
            assert np.array_equal(copy[19], frames[24])


def test_a_url_and_a_variable_rate(tmp_path: Path) -> None:
    times = np.cumsum(np.random.default_rng(3).integers(10, 80, 50)).tolist()
    path = made(tmp_path / "a.mp4", random_blocks(50), times=times)
    fsspec.filesystem("memory").pipe_file("/lazy-frames/a.mp4", path.read_bytes())
    facts = video_facts.probe(path)
    assert not facts.constant
    expected = video_files.read_frames(path, range(10, 40), facts.fps)
    with LazyFrames("memory://lazy-frames/a.mp4", 10, 30, facts.fps, CHUNK * FRAME_BYTES) as video:
        assert all(np.array_equal(video[number], expected[number]) for number in reversed(range(30)))
