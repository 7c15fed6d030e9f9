"""Video files as they are read: frames by number and by time, turned upright, from disk or afar; what is refused."""

import gc
import wave
from fractions import Fraction
from pathlib import Path

import av
import fsspec
import numpy as np
import pytest
from PIL import Image

from alchemint.video_facts import VideoFacts, probe
from alchemint.video_files import VideoReader, frames_of, read_frames, read_video
from tests.made_videos import made, random_blocks


def grown(path: Path, num_frames: int, rate: Fraction, x264: str, codec: str = "libx264", file: str = "mp4",
          **options: str) -> np.ndarray:
    """Write a video of random blocks, no two frames alike, and return it as `read_video` does."""
    made(path, random_blocks(num_frames), rate, codec=codec, x264=x264, container=file, **options)
    frames = read_video(path)[0]
    assert len(frames) == num_frames
    return frames


VIDEOS = {
    "one group of pictures": ("a.mp4", Fraction(24), "bframes=3:keyint=250", "libx264", "mp4", {}),
    "several": ("a.mp4", Fraction(30000, 1001), "bframes=3:b-adapt=0:keyint=12:min-keyint=12:scenecut=0", "libx264",
                "mp4", {}),
    "open groups": ("a.mp4", Fraction(25), "bframes=3:b-adapt=0:keyint=10:scenecut=0:open-gop=1", "libx264", "mp4", {}),
    "no edit list": ("a.mp4", Fraction(16), "bframes=3:keyint=9", "libx264", "mp4", {"use_editlist": "0"}),
    "milliseconds": ("a.mkv", Fraction(24000, 1001), "bframes=2:keyint=12", "libx264", "matroska", {}),
    "transport stream": ("a.ts", Fraction(25), "bframes=2:keyint=10:scenecut=0", "libx264", "mpegts", {}),
    "program stream": ("a.mpg", Fraction(25), "", "mpeg2video", "mpeg", {}),
    "keyframes only": ("a.mkv", Fraction(25), "", "ffv1", "matroska", {}),
    "another codec": ("a.avi", Fraction(12), "", "mpeg4", "avi", {}),
}


@pytest.mark.parametrize("kind", VIDEOS)
def test_frames_by_number_are_those_of_the_whole_video(tmp_path: Path, kind: str) -> None:
    name, rate, x264, codec, container, options = VIDEOS[kind]
    frames = grown(tmp_path / name, 61, rate, x264, codec, container, **options)
    random = np.random.default_rng(1)
    wanted = [list(range(61)), [60], [0], [0, 60], [7, 7, 8], [59, 60, 60]]
    wanted += [sorted(random.integers(0, 61, random.integers(1, 9)).tolist()) for _ in range(40)]
    for numbers in wanted:
        read = read_frames(tmp_path / name, numbers)
        assert read.dtype == np.uint8
        assert np.array_equal(read, frames[numbers]), numbers
    for past in ([61], [3, 61], [500]):
        with pytest.raises(ValueError, match=rf"{name} holds no frame {past[-1]} "):
            read_frames(tmp_path / name, past)


def test_only_what_is_needed_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grown(tmp_path / "a.mp4", 200, Fraction(25), "bframes=2:keyint=20:min-keyint=20:scenecut=0")
    decoded: list[int] = []
    real = VideoReader._time
    monkeypatch.setattr(VideoReader, "_time",
                        lambda self, frame: decoded.append(real(self, frame)) or real(self, frame))
    read_frames(tmp_path / "a.mp4", [5, 105, 195])
    assert len(set(decoded)) <= 3 * 21 + 3
    assert (min(decoded), max(decoded)) == (0, 196 * 512)


def test_frames_of_what_is_no_video_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video" * 100)
    with pytest.raises(ValueError, match=r"a\.mp4 is not a readable video"):
        read_frames(tmp_path / "a.mp4", [0])
    with pytest.raises(FileNotFoundError, match=r"b\.mp4"):
        read_frames(tmp_path / "b.mp4", [0])
    for numbers in ([3, 2], [-1]):
        with pytest.raises(ValueError, match="must not descend"):
            read_frames(tmp_path / "a.mp4", numbers)
    with pytest.raises(ValueError, match="name at least one"):
        read_frames(tmp_path / "a.mp4", [])


def test_a_stream_that_cannot_be_searched_is_refused(tmp_path: Path) -> None:
    grown(tmp_path / "a.h264", 9, Fraction(25), "bframes=0", file="h264")
    with pytest.raises(ValueError, match=r"a\.h264 is not a readable video"):
        read_frames(tmp_path / "a.h264", [3])


def test_a_video_that_breaks_off_is_refused_where_it_does(tmp_path: Path) -> None:
    frames = grown(tmp_path / "a.mp4", 61, Fraction(25), "bframes=2:keyint=10", movflags="+faststart")
    data = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "a.mp4").write_bytes(data[:len(data) // 2])
    assert np.array_equal(read_frames(tmp_path / "a.mp4", [2, 3]), frames[2:4])
    with pytest.raises(ValueError, match=r"a\.mp4"):
        read_frames(tmp_path / "a.mp4", [60])


@pytest.mark.parametrize("kind", VIDEOS)
def test_a_constant_rate_is_told_and_frames_by_time_are_those_by_number(tmp_path: Path, kind: str) -> None:
    name, rate, x264, codec, container, options = VIDEOS[kind]
    frames = grown(tmp_path / name, 61, rate, x264, codec, container, **options)
    facts = probe(tmp_path / name)
    assert facts == VideoFacts(float(rate), 61, 32, 32, constant=True)
    assert np.array_equal(read_frames(tmp_path / name, range(61), facts.fps), frames)
    with VideoReader(tmp_path / name, facts.fps) as video:
        for number in np.random.default_rng(2).permutation(61).tolist():
            assert np.array_equal(video.frame(number), frames[number]), number
    with pytest.raises(ValueError, match="holds no frame 61 "):
        read_frames(tmp_path / name, [60, 61], facts.fps)


@pytest.mark.parametrize("rate", [Fraction(60), Fraction(60000, 1001), Fraction(24000, 1001), Fraction(15)])
@pytest.mark.parametrize("x264", ["bframes=0", "bframes=3"])
def test_a_clock_of_milliseconds_makes_no_variable_rate(tmp_path: Path, rate: Fraction, x264: str) -> None:
    frames = grown(tmp_path / "a.mkv", 150, rate, x264, file="matroska")
    facts = probe(tmp_path / "a.mkv")
    assert (facts.constant, facts.num_frames) == (True, 150)
    assert facts.fps == pytest.approx(float(rate), rel=1e-4)
    assert np.array_equal(read_frames(tmp_path / "a.mkv", range(150), facts.fps), frames)


TIMES = [
    [0, 40, 80, 120, 300, 310, 320, 1000, 1040, 1400],
    np.cumsum(np.random.default_rng(5).integers(5, 90, 60)).tolist(),
    [0, 1000, 1010],
]


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
@pytest.mark.parametrize("rate", [None, 30.0, 7.3])
def test_of_a_variable_rate_a_frame_is_what_is_shown_at_its_time(tmp_path: Path, times: list[int], name: str,
                                                                 rate: float | None) -> None:
    path = made(tmp_path / name, random_blocks(len(times)), times=times)
    whole = read_video(path)[0]
    assert len(whole) == len(times)
    facts = probe(path)
    assert (facts.constant, facts.num_frames) == (False, len(times))
    assert facts.fps == pytest.approx(1000 * (len(times) - 1) / (times[-1] - times[0]))
    rate = rate or facts.fps
    num_frames = int((times[-1] - times[0]) / 1000 * rate + 1e-3) + 1
    # What begins less than a quarter of a frame later may count; a clock of milliseconds rounds either way.
    slack = 250 / max(rate, facts.fps) + 3
    first, last = ([max((place for place, time in enumerate(times) if time - times[0] <= number * 1000 / rate + late),
                        default=0) for number in range(num_frames)] for late in (-3, slack))
    with VideoReader(path, rate) as video:
        for number in [*range(num_frames), *reversed(range(num_frames))]:
            frame = video.frame(number)
            assert any(np.array_equal(frame, one) for one in whole[first[number]:last[number] + 1]), number
        with pytest.raises(ValueError, match="holds no frame"):
            video.frame(num_frames + 1)


def test_a_clock_that_trembles_makes_no_variable_rate(tmp_path: Path) -> None:
    times = (np.arange(200) * 1000 / 29.97 + np.random.default_rng(0).uniform(-6, 6, 200) + 6).astype(int).tolist()
    path = made(tmp_path / "a.mp4", random_blocks(200), times=times)
    facts = probe(path)
    assert (facts.constant, facts.num_frames) == (True, 200)
    assert facts.fps == pytest.approx(29.97, abs=0.1)
    assert np.array_equal(read_frames(path, range(200), facts.fps), read_video(path)[0])


QUARTER = 1 << 16
TURNS = {
    "left": ([0, -QUARTER, 0, QUARTER, 0, 0], lambda frames: np.rot90(frames, 1, (1, 2))),
    "over": ([-QUARTER, 0, 0, 0, -QUARTER, 0], lambda frames: np.rot90(frames, 2, (1, 2))),
    "right": ([0, QUARTER, 0, -QUARTER, 0, 0], lambda frames: np.rot90(frames, 3, (1, 2))),
    "mirrored": ([-QUARTER, 0, 0, 0, QUARTER, 0], lambda frames: frames[:, :, ::-1]),
    "mirrored and left": ([0, QUARTER, 0, QUARTER, 0, 0], lambda frames: frames.transpose(0, 2, 1, 3)),
}


@pytest.mark.parametrize("turn", TURNS)
def test_frames_come_upright(tmp_path: Path, turn: str) -> None:
    matrix, turned = TURNS[turn]
    frames = random_blocks(5, 32, 48)
    plain = read_video(made(tmp_path / "a.mp4", frames))[0]
    path = made(tmp_path / "b.mp4", frames, matrix=[*matrix, 0, 0, 1 << 30])
    upright = turned(plain)
    assert np.array_equal(read_video(path)[0], upright)
    assert np.array_equal(read_frames(path, [1, 4]), upright[[1, 4]])
    facts = probe(path)
    assert (facts.height, facts.width) == upright.shape[1:3]


def test_the_angle_is_the_one_that_ffmpeg_tells(tmp_path: Path) -> None:
    frames = random_blocks(2, 32, 48)
    path = made(tmp_path / "a.mp4", frames, matrix=[*TURNS["left"][0], 0, 0, 1 << 30])
    with av.open(path) as file:
        assert next(file.decode(video=0)).rotation == 90  # counterclockwise, as numpy turns


@pytest.mark.parametrize(("codec", "pix_fmt", "exact"), [("ffv1", "bgr0", True), ("libvpx-vp9", "yuv420p", False)])
def test_odd_sizes(tmp_path: Path, codec: str, pix_fmt: str, exact: bool) -> None:
    frames = random_blocks(3, 47, 33) if exact else np.full((3, 47, 33, 3), (200, 40, 90), np.uint8)
    path = made(tmp_path / "a.mkv", frames, codec=codec, pix_fmt=pix_fmt)
    facts = probe(path)
    assert (facts.width, facts.height) == (33, 47)
    assert np.abs(read_video(path)[0].astype(int) - frames).max() <= (0 if exact else 3)


def test_large_frames_are_made_smaller_and_small_ones_left(tmp_path: Path) -> None:
    frames = random_blocks(3, 64, 96)
    path = made(tmp_path / "a.mkv", frames, codec="ffv1", pix_fmt="bgr0")
    means = frames.reshape(3, 8, 8, 12, 8, 3).mean((2, 4))
    small = np.stack(list(frames_of(path, range(3), longest_side=12)))
    assert np.abs(small - means).max() <= 2
    assert np.array_equal(np.stack(list(frames_of(path, range(3), longest_side=96))), frames)


def test_a_url_reads_as_a_path_does(tmp_path: Path) -> None:
    path = made(tmp_path / "a.mp4", random_blocks(40))
    address = "memory://video-files/folder/a.mp4"
    fsspec.filesystem("memory").pipe_file("/video-files/folder/a.mp4", path.read_bytes())
    assert probe(address) == probe(path)
    assert np.array_equal(read_video(address)[0], read_video(path)[0])
    assert np.array_equal(read_frames(address, [3, 17, 39], 25.0), read_frames(path, [3, 17, 39]))
    assert probe(f"file://{path}") == probe(path)
    with pytest.raises(FileNotFoundError, match=r"memory://none\.mp4 does not exist"):
        read_video("memory://none.mp4")


def test_metadata_that_is_not_utf_8(tmp_path: Path) -> None:
    path = made(tmp_path / "plain.mkv", random_blocks(3))
    with av.open(path) as source, av.open(tmp_path / "a.mp4", "w") as file:
        file.metadata["title"] = "a title in xxxx"
        stream = file.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                file.mux(packet)
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.count(b"xxxx") == 1
    (tmp_path / "a.mp4").write_bytes(data.replace(b"xxxx", b"\xff\xfe\xe9\x80"))
    with pytest.raises(UnicodeDecodeError):
        av.open(tmp_path / "a.mp4")
    assert probe(tmp_path / "a.mp4").num_frames == 3


def test_a_cover_picture_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(path, "w") as file:
        cover, stream = file.add_stream("mjpeg", rate=1), file.add_stream("libx264", rate=25)
        cover.disposition = av.stream.Disposition.attached_pic
        for one, pix_fmt, side in ((cover, "yuvj420p", 64), (stream, "yuv420p", 32)):
            one.width = one.height = side
            one.pix_fmt = pix_fmt
        for one, side in ((cover, 64), (stream, 32), (stream, 32)):
            file.mux(one.encode(av.VideoFrame.from_ndarray(np.zeros((side, side, 3), np.uint8), format="rgb24")))
        file.mux(stream.encode())
    assert (probe(path).width, probe(path).num_frames) == (32, 2)


def no_video(folder: Path) -> dict[str, str]:
    """Write files that are no videos, whatever they are called; return what is told of each."""
    Image.new("RGB", (64, 48)).save(folder / "picture.jpg")
    (folder / "picture.jpg").rename(folder / "picture.mp4")
    (folder / "text.mp4").write_text("A text that was called a video.\n" * 50)
    (folder / "subtitles.mp4").write_text("1\n00:00:01,000 --> 00:00:02,000\na\n\n2\n00:00:03,000 --> 00:00:04,000\nb")
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "folder.mp4").mkdir()
    with wave.open(str(folder / "sound.mp4"), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(16000))
    for name in ("no-frames.mp4", "no-frames.mkv"):
        with av.open(folder / name, "w") as file:
            stream = file.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
            file.start_encoding()
    made(folder / "stream.h264", random_blocks(3))
    return {"picture.mp4": "is a picture, not a video", "text.mp4": "not a readable video",
            "subtitles.mp4": "no video stream", "empty.mp4": "not a readable video",
            "folder.mp4": "not a readable video", "sound.mp4": "no video stream", "no-frames.mp4": "no video stream",
            "no-frames.mkv": "(holds no frame|not a readable video)", "stream.h264": "no time stamps",
            "none.mp4": "does not exist"}


def test_what_is_no_video_is_told_in_one_line(tmp_path: Path) -> None:
    for name, message in no_video(tmp_path).items():
        with pytest.raises(ValueError, match=message) as told:
            probe(tmp_path / name)
        assert name in str(told.value) and "\n" not in str(told.value), name


CONTAINERS = {
    "mp4": ("a.mp4", {}, True),
    "mp4, index first": ("a.mp4", {"movflags": "+faststart"}, True),
    "mp4 in fragments": ("a.mp4", {"movflags": "frag_keyframe+empty_moov"}, False),
    "mkv": ("a.mkv", {}, False),
    "mkv, index first": ("a.mkv", {"cues_to_front": "1"}, False),
    "ts": ("a.ts", {}, False),
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_file_that_breaks_off_is_refused_or_whole_as_far_as_it_goes(tmp_path: Path, container: str) -> None:
    """Some containers don't tell where they would have ended; what is told to be there can be read in any case."""
    name, options, always = CONTAINERS[container]
    path = made(tmp_path / name, random_blocks(60), x264="bframes=2:keyint=10", **options)
    frames = read_video(path)[0]
    data = path.read_bytes()
    refused = 0
    for length in {*range(0, len(data), len(data) // 40), len(data) - 1, len(data) - 300}:
        path.write_bytes(data[:length])
        try:
            facts = probe(path)
        except ValueError as error:
            refused += 1
            assert str(path) in str(error) and "\n" not in str(error)
            continue
        assert not always or length > len(data) - 400
        read = read_frames(path, range(facts.num_frames), facts.fps)
        # In a transport stream what there is of the last packet is decoded, and frames before it depend on that.
        num_whole = len(read) - (3 if name == "a.ts" else 0)
        assert np.array_equal(read[:num_whole], frames[:num_whole]) or not facts.constant
    assert refused >= (40 if always else 1)


def test_what_breaks_off_says_how_far_it_goes(tmp_path: Path) -> None:
    path = made(tmp_path / "a.mp4", random_blocks(61), movflags="+faststart")
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ValueError, match=r"breaks off after \d\d of 61 frames") as told:
        probe(path)
    told_num = int(str(told.value).split("after ")[1].split(" ")[0])
    assert 50 <= told_num < 61
    made(tmp_path / "b.mkv", random_blocks(61))
    (tmp_path / "b.mkv").write_bytes((tmp_path / "b.mkv").read_bytes()[:10_000])
    with pytest.raises(ValueError, match=r"breaks off after \d\.\d of 2\.4 s"):
        probe(tmp_path / "b.mkv")


def test_a_frame_that_cannot_be_decoded_is_no_video(tmp_path: Path) -> None:
    path = made(tmp_path / "a.mp4", random_blocks(5))
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4
    data[start:data.index(b"moov") - 4] = bytes(len(data[start:data.index(b"moov") - 4]))
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.mp4 (is not a readable video|holds no frame)"):
        probe(path)


def test_going_forward_decodes_every_frame_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = made(tmp_path / "a.mkv", random_blocks(60), codec="ffv1", pix_fmt="bgr0")  # keyframes only
    seeks = []
    with VideoReader(path, 25.0) as video:
        monkeypatch.setattr(VideoReader, "_jump",
                            lambda self, *times, jump=VideoReader._jump: (seeks.append(times), jump(self, *times)))
        for number in range(60):
            video.frame(number)
        assert len(seeks) == 1
        video.frame(10)
        assert len(seeks) == 2


def test_no_decoded_frame_waits_for_the_collector(tmp_path: Path) -> None:
    path = made(tmp_path / "a.mp4", random_blocks(100), matrix=[*TURNS["left"][0], 0, 0, 1 << 30])
    gc.collect()
    gc.disable()
    try:
        for frame in frames_of(path, range(100)):
            assert frame.any()
        assert sum(type(held) is av.VideoFrame for held in gc.get_objects()) < 10
    finally:
        gc.enable()


def test_a_size_that_changes_is_told(tmp_path: Path) -> None:
    parts = [made(tmp_path / f"{side}.ts", random_blocks(5, side, side), x264="bframes=0") for side in (32, 64)]
    with av.open(tmp_path / "a.ts", "w") as file:
        stream = None
        for place, part in enumerate(parts):
            with av.open(part) as source:
                stream = stream or file.add_stream_from_template(source.streams.video[0])
                for number, packet in enumerate(packet for packet in source.demux(video=0) if packet.size):
                    packet.stream = stream
                    packet.pts = packet.dts = (place * 5 + number) * 3600
                    packet.time_base = Fraction(1, 90000)
                    file.mux(packet)
    with pytest.raises(ValueError, match="change their size from 32 x 32 to 64 x 64 at frame 5"):
        read_frames(tmp_path / "a.ts", range(10), 25.0)
