"""Video files become clips: cuts are found, parts that were captioned are kept to, times shifted, and ids stable."""

import hashlib
import math
from pathlib import Path

import numpy as np
import pytest

from alchemint import media
from alchemint.annotate.clip import Clip, Given, Source, UnfitError
from alchemint.annotate.recipe import Shots
from alchemint.annotate.shots import clip_id, cut
from alchemint.records import TimedCaption
from tests.made_videos import made

FPS = 25
LENGTHS = (40, 30, 55)


def moving(num_frames: int, seed: int, size: tuple[int, int] = (64, 96)) -> np.ndarray:
    """A shot: a picture of its own along which the camera moves."""
    height, width = size
    random = np.random.default_rng(seed)
    wide = (random.integers(0, 120, 3) + 130 * random.random((height // 16, width // 8, 3))).astype(np.uint8)
    wide = wide.repeat(16, 0).repeat(16, 1)
    return np.stack([wide[:, step:step + width] for step in np.arange(num_frames) // 2 % width])


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of three shots."""
    frames = np.concatenate([moving(length, seed) for seed, length in enumerate(LENGTHS)])
    return made(tmp_path_factory.mktemp("shots") / "joined.mp4", frames, FPS, x264="keyint=250")


def source(path: Path, *given: Given) -> Source:
    return Source(path.name, str(path), given)


def spans(clips: list[Clip]) -> list[tuple[int, int]]:
    return [(clip.first_frame, clip.num_frames) for clip in clips]


@pytest.mark.parametrize("detector", ["adaptive", "content"])
def test_cuts_are_found(joined: Path, detector: str) -> None:
    clips = cut(source(joined), Shots(detector=detector))
    assert spans(clips) == [(0, 40), (40, 30), (70, 55)]
    assert all(clip.facts == media.probe(joined) and clip.caption == "" for clip in clips)


def test_a_threshold_out_of_reach_finds_none(joined: Path) -> None:
    for options in (Shots(detector="content", threshold=250), Shots(detector="adaptive", threshold=300),
                    Shots(detector="none")):
        assert spans(cut(source(joined), options)) == [(0, 125)]


def test_cuts_between_still_colours(tmp_path: Path) -> None:
    colours = np.array([(200, 30, 30), (30, 200, 30), (30, 30, 200)], np.uint8)
    path = made(tmp_path / "a.mp4", np.broadcast_to(colours.repeat(30, 0)[:, None, None], (90, 32, 48, 3)))
    assert spans(cut(source(path), Shots())) == [(0, 30), (30, 30), (60, 30)]


def test_cuts_in_a_turned_video_of_variable_rate_are_at_their_times(tmp_path: Path) -> None:
    times = np.cumsum(np.random.default_rng(0).integers(20, 60, 120)).tolist()
    frames = np.concatenate([moving(60, seed) for seed in (3, 4)])
    path = made(tmp_path / "a.mp4", frames, times=times, matrix=[0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30])
    first, second = cut(source(path), Shots())
    assert (first.facts.width, first.facts.height, first.facts.constant) == (64, 96, False)
    change_s = (times[60] - times[0]) / 1000
    assert math.ceil(change_s * first.facts.fps - 1e-6) == second.first_frame == first.num_frames


def test_short_shots_are_left_out_and_long_ones_cut_evenly(joined: Path) -> None:
    assert spans(cut(source(joined), Shots(shortest_s=1.5))) == [(0, 40), (70, 55)]
    parts = spans(cut(source(joined), Shots(shortest_s=1.5, longest_s=0.5)))
    assert [first for first, _ in parts] == [0, 10, 20, 30, 70, 81, 92, 103, 114]
    assert {number for _, number in parts} == {10, 11}
    with pytest.raises(UnfitError, match=r"longest of its 3 shots lasts 2\.20 s, but only those of 3 s and more"):
        cut(source(joined), Shots(shortest_s=3))


def test_the_caption_goes_to_every_shot_and_events_where_they_fall(joined: Path) -> None:
    events = (TimedCaption(during=(0.2, 1.0), text="first"), TimedCaption(during=(1.4, 2.0), text="both"),
              TimedCaption(during=(2.8, 5.04), text="to the end"), TimedCaption(during=(1.57, 1.6), text="no frame"))
    clips = cut(source(joined, Given("a caption", events)), Shots())
    assert {clip.caption for clip in clips} == {"a caption"}
    said = [[(event.text, *np.round(event.during, 3).tolist()) for event in clip.events] for clip in clips]
    assert said == [[("first", 0.2, 1.0), ("both", 1.4, 1.6)], [("both", 0.0, 0.4)], [("to the end", 0.0, 2.2)]]


def test_an_event_behind_the_end_is_told(joined: Path) -> None:
    with pytest.raises(UnfitError, match=r"joined\.mp4: the event 4-6 s .* lasts 5\.000 s \(125 frames\)"):
        cut(source(joined, Given("a", (TimedCaption(during=(4, 6), text="b"),))), Shots())


def test_parts_that_were_captioned_are_kept_to(joined: Path) -> None:
    late = Given("late", (TimedCaption(during=(0.0, 1.0), text="x"), TimedCaption(during=(1.0, 9.0), text="y")),
                 (3.0, 5.05))
    early = Given("early", during=(0.0, 0.4))
    clips = cut(source(joined, late, early), Shots(shortest_s=3))
    assert spans(clips) == [(0, 10), (75, 50)]
    assert [clip.caption for clip in clips] == ["early", "late"]
    assert [event.during for event in clips[1].events] == [(0.0, 1.0), (1.0, 2.0)]


@pytest.mark.parametrize(("during", "message"), [
    ((3.0, 6.0), r"the part 3-6 s .* lies outside of it, which lasts 5\.000 s"),
    ((7.0, 9.0), "the part 7-9 s"), ((1.001, 1.03), r"the part 1\.001-1\.03 s holds no frame")])
def test_parts_outside_are_told(joined: Path, during: tuple[float, float], message: str) -> None:
    with pytest.raises(UnfitError, match=message):
        cut(source(joined, Given("a", during=during)), Shots())


def test_parts_of_the_same_frames_are_told(joined: Path) -> None:
    with pytest.raises(UnfitError, match="two parts are of the same frames"):
        cut(source(joined, Given("a", during=(0, 1)), Given("b", during=(0, 0.99))), Shots())
    with pytest.raises(UnfitError, match="captions of parts and one of the whole"):
        cut(source(joined, Given("a", during=(0, 1)), Given("b")), Shots())


def test_files_that_cannot_be_read_are_unfit(tmp_path: Path, joined: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "cut.mp4").write_bytes(joined.read_bytes()[:3000])
    for name, message in (("text.mp4", "not a readable video"), ("cut.mp4", "not a readable video"),
                          ("none.mp4", "does not exist")):
        with pytest.raises(UnfitError, match=message):
            cut(source(tmp_path / name), Shots())


def test_ids_are_readable_stable_and_differ() -> None:
    digest = hashlib.sha256(b'["folder/My clip (1).mp4", [0, 81]]').hexdigest()[:12]
    assert clip_id("folder/My clip (1).mp4", (0, 81)) == f"My-clip-1-{digest}"
    ids = {clip_id(name, span) for name in ("a/x.mp4", "b/x.mp4", "a/x.mov", "a/1.mp4", "ünï/猫.mp4", "()")
           for span in (None, (0, 1), (0, 11), (1, 1), (10, 1))}
    assert len(ids) == 30
    assert all(one.replace("-", "").replace("_", "").isalnum() for one in ids)
    # macOS writes accents apart.
    assert clip_id("\u00fc.mp4") == clip_id("u\u0308.mp4")


def test_clips_have_the_ids_of_their_spans(joined: Path) -> None:
    assert [clip.clip_id for clip in cut(source(joined), Shots())] == [
        clip_id("joined.mp4", span) for span in ((0, 40), (40, 30), (70, 55))]
