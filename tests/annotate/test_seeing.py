"""Finding and following in a clip, with tiny random models of the real classes."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alchemint import media
from alchemint.annotate import seeing
from alchemint.annotate.clip import Clip, Found, Source
from alchemint.annotate.recipe import Perception
from alchemint.masks import box_of, decoded_mask, mask_text
from alchemint.media import VideoFacts
from alchemint.perception.clip import ClipComparer
from alchemint.perception.grounding_dino import GroundingDinoFinder
from alchemint.perception.sam2 import Sam2Follower
from alchemint.perception.sam3 import Sam3Spotter, Spotted
from alchemint.perception.sightings import Box, Mask, Sought, crop, gathered
from alchemint.perception.watcher import find_anchors
from alchemint.records import Dropped
from tests import tiny_perception as tiny

WORDS = ("fox", "red balloon")
LENIENT = Perception(num_search_frames=4, min_likeness=-1)


@pytest.fixture(scope="module")
def finder() -> GroundingDinoFinder:
    return GroundingDinoFinder(tiny.dino_model(), tiny.word_tokenizer(), tiny.dino_processor(), box_threshold=0.0)


@pytest.fixture(scope="module")
def comparer() -> ClipComparer:
    return ClipComparer(tiny.clip_model(), tiny.word_tokenizer(), tiny.clip_processor())


@pytest.fixture(scope="module")
def video() -> np.ndarray:
    """A bright square that moves over noise: 24 frames of 80 x 48 pixels."""
    frames = np.random.default_rng(0).integers(0, 90, (24, 48, 80, 3), dtype=np.uint8)
    for number, frame in enumerate(frames):
        frame[10:30, 2 * number:2 * number + 20] = (250, 200, 30)
    return frames


@pytest.fixture
def clip(video: np.ndarray) -> Clip:
    num_frames, height, width, _ = video.shape
    return Clip("a", Source("a.mp4", "a.mp4"), VideoFacts(12.0, num_frames, width, height), 0, num_frames,
                caption="A fox with a red balloon.", words=WORDS, dropped=(Dropped(word="sky", filter="rule"),))


def test_each_word_gets_the_box_that_perception_picks(
    clip: Clip, video: np.ndarray, finder: GroundingDinoFinder, comparer: ClipComparer
) -> None:
    found = seeing.find(clip, video, finder, comparer, LENIENT)
    sought = [Sought(word) for word in WORDS]
    anchors, likenesses = find_anchors(video, sought, finder, comparer, 4, apart=True)
    assert [(one.word, one.anchor, one.likeness) for one in found.found] == [*zip(WORDS, anchors, likenesses,
                                                                                 strict=True)]
    assert found.dropped == clip.dropped
    for one in found.found:
        assert one.likeness == pytest.approx(float(
            (comparer.embed_pictures([crop(video[one.anchor.frame], one.anchor.corners)])
             @ comparer.embed_words([one.word]).T)[0, 0]), abs=1e-5)


def test_words_without_a_box_or_unlike_it_are_dropped(
    clip: Clip, video: np.ndarray, finder: GroundingDinoFinder, comparer: ClipComparer
) -> None:
    class Half:
        def find(self, frames: np.ndarray, sought: Sought) -> list[Box]:
            return finder.find(frames, sought) if sought.word == "fox" else []

    found = seeing.find(clip, video, Half(), comparer, LENIENT)
    assert [one.word for one in found.found] == ["fox"]
    assert found.dropped == (*clip.dropped, Dropped(word="red balloon", filter="not found"))
    likeness = found.found[0].likeness
    assert likeness is not None
    strict = seeing.find(clip, video, Half(), comparer, Perception(num_search_frames=4, min_likeness=likeness + 0.01))
    assert strict.found == ()
    assert strict.dropped[2] == Dropped(word="fox", filter="likeness", value=round(likeness, 4),
                                        threshold=likeness + 0.01)
    blind = seeing.find(clip, video, Half(), None, Perception(num_search_frames=4, min_likeness=1.0))
    assert [(one.word, one.likeness) for one in blind.found] == [("fox", None)]


@pytest.fixture
def found(clip: Clip) -> Clip:
    return replace(clip, found=(Found("fox", Box(9, (18, 10, 38, 30), 0.5), 0.2),
                                Found("red balloon", Box(3, (40, 5, 70, 45), 0.4), 0.1)))


def test_tracks_hold_the_followers_masks(found: Clip, video: np.ndarray, comparer: ClipComparer) -> None:
    follower = Sam2Follower(tiny.sam_model())
    clip = seeing.follow(found, video, follower, comparer)
    anchors = [one.anchor for one in found.found]
    masks = gathered(follower.follow(video, anchors), 2, video)
    scores = {(one.subject, one.frame): one.score for one in follower.follow(video, anchors)}
    assert masks.any((1, 2, 3)).all()
    for subject, one in enumerate(clip.followed):
        assert one.found == found.found[subject]
        assert one.track.areas == tuple(masks[subject].sum((1, 2)).tolist())
        assert one.track.boxes == tuple(box_of(mask) for mask in masks[subject])
        assert one.track.scores == tuple(scores[subject, frame] for frame in range(24))
        for frame, text in enumerate(one.track.masks):
            assert np.array_equal(decoded_mask(text, (80, 48)), masks[subject, frame])
        seen = masks[subject].any((1, 2))
        assert one.figures["confidence"] == pytest.approx(np.mean(np.array(one.track.scores)[seen]))
        assert set(one.figures) == {"identity", "sharpness", "confidence", "truncation"}
        assert -1 <= one.figures["identity"] <= 1 + 1e-6
    assert "identity" not in seeing.follow(found, video, follower).followed[0].figures


class Scripted:
    """A follower or spotter that yields what it is told to."""

    def __init__(self, masks: Sequence[Any], delay: int = 0) -> None:
        self.masks, self.delay = masks, delay

    def follow(self, video: Any, anchors: Sequence[Box], sought: Sequence[Sought]) -> Iterator[Mask]:
        yield from self.masks

    def see(self, video: Any, words: Sequence[str]) -> Iterator[Spotted]:
        for one in self.masks:
            for frame in range(one.mask.frame, min(one.mask.frame + self.delay + 1, len(video))):
                video[frame]
            yield one


def square(frame: int, subject: int = 0, left: int = 0, side: int = 10) -> Mask:
    mask = np.zeros((48, 80), bool)
    mask[4:4 + side, left:left + side] = True
    return Mask(subject, frame, mask, 2.5)


def test_frames_that_a_follower_leaves_out_do_not_show_the_subject(found: Clip, video: np.ndarray) -> None:
    empty = Mask(0, 5, np.zeros((48, 80), bool), -3.0)
    clip = seeing.follow(found, video, Scripted([square(4), empty, square(3)]))
    track, other = (one.track for one in clip.followed)
    assert track.runs == [(3, 4)]
    assert (track.scores[4], track.scores[5], track.scores[6]) == (2.5, -3.0, 0.0)
    assert track.masks[0] == track.masks[5] == mask_text(empty.mask)
    assert track.boxes[3] == (0, 4, 10, 14)
    assert other.runs == [] and len(other.masks) == 24
    assert clip.followed[0].figures["truncation"] == 1.0
    assert clip.followed[1].figures == {}


def test_of_nothing_found_nothing_is_followed(clip: Clip, video: np.ndarray) -> None:
    assert seeing.follow(clip, video, Sam2Follower(tiny.sam_model())).followed == ()


def test_a_file_is_followed_as_its_frames_in_memory(
    found: Clip, video: np.ndarray, comparer: ClipComparer, tmp_path: Path
) -> None:
    media.write_video(tmp_path / "a.mp4", video, 12.0, crf=0)
    frames, _ = media.read_video(tmp_path / "a.mp4")
    follower = Sam2Follower(tiny.sam_model())
    with media.LazyFrames(tmp_path / "a.mp4", 0, 24, 12.0, chunk_bytes=5 * frames[0].nbytes) as lazy:
        read = seeing.follow(found, lazy, follower, comparer)
    assert read == seeing.follow(found, frames, follower, comparer)


def test_sam3_finds_and_follows(clip: Clip, video: np.ndarray, comparer: ClipComparer) -> None:
    spotter = Sam3Spotter(tiny.sam3_model(), tiny.word_tokenizer())
    seen = seeing.see_all(clip, video, spotter, comparer, LENIENT)
    assert [one.word for one in seen.found] == list(WORDS)
    assert [one.found for one in seen.followed] == list(seen.found)
    masks = [one for one in spotter.see(video, WORDS) if one.word == 1]
    track = seen.followed[1].track
    best = {one.mask.frame: one.mask.mask for one in masks if one.mask.subject == masks[0].mask.subject}
    assert len(best) == 24
    for frame, mask in best.items():
        assert np.array_equal(decoded_mask(track.masks[frame], (80, 48)), mask)
    one = seen.followed[0]
    assert one.found.anchor.corners == tuple(map(float, one.track.boxes[one.found.anchor.frame] or ()))
    assert one.found.likeness is not None and 0 < one.found.anchor.score < 1


def spotted(word: int, instance: int, frames: range, detection: float, left: int) -> list[Spotted]:
    return [Spotted(word, detection, square(frame, instance, left)) for frame in frames]


def test_of_several_instances_the_surest_or_the_likeliest_is_kept_and_fleeting_ones_never(
    clip: Clip, video: np.ndarray
) -> None:
    """Pictures are known by their colour: each instance is somewhere else, where the frames are of its own colour."""
    painted = np.zeros_like(video)
    for instance in range(4):
        painted[:, :, 10 * instance:10 * instance + 10] = instance
    script = [*spotted(0, 0, range(20), 0.6, 0), *spotted(0, 1, range(4, 24), 0.5, 10),
              *spotted(0, 2, range(3), 0.99, 20)]

    class Told:
        sharpness = 100.0

        def embed_pictures(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
            return np.array([[0.2, 0.0], [0.3, 0.0], [0.4, 0.0]])[[int(picture.max()) for picture in pictures]]

        def embed_words(self, words: Sequence[str]) -> np.ndarray:
            return np.eye(2)

    script.sort(key=lambda one: one.mask.frame)
    sure = seeing.see_all(clip, painted, Scripted(script), None, LENIENT)
    like = seeing.see_all(clip, painted, Scripted(script), Told(), LENIENT)
    assert sure.found == (Found("fox", Box(0, (0, 4, 10, 14), 0.6), None),)
    assert like.found == (Found("fox", Box(4, (10, 4, 20, 14), 0.5), 0.3),)
    assert like.followed[0].track.runs == [(4, 23)]
    assert sure.dropped == like.dropped == (*clip.dropped, Dropped(word="red balloon", filter="not found"))
    picky = seeing.see_all(clip, painted, Scripted(script), Told(), Perception(min_likeness=0.35))
    assert (picky.found, picky.followed) == ((), ())
    assert picky.dropped[2] == Dropped(word="fox", filter="likeness", value=0.3, threshold=0.35)


def test_a_model_that_answers_late_makes_no_frame_be_read_again(clip: Clip, video: np.ndarray) -> None:
    class Watched:
        shape = video.shape

        def __init__(self) -> None:
            self.read: list[int] = []

        def __len__(self) -> int:
            return len(video)

        def __getitem__(self, number: int) -> np.ndarray:
            self.read.append(number)
            return video[number]

    watched = Watched()
    seeing.see_all(clip, watched, Scripted(spotted(0, 0, range(24), 0.5, 0), delay=6), None, LENIENT)
    assert watched.read == list(range(24))
    watched = Watched()
    seeing.see_all(clip, watched, Sam3Spotter(tiny.sam3_model(), tiny.word_tokenizer()), None, LENIENT)
    assert watched.read == list(range(24))
