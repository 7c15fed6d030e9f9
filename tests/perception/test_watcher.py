"""Perception with tiny random models of the real classes: what is promised holds whatever the weights."""

import copy
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from alchemint.perception.clip import ClipComparer
from alchemint.perception.grounding_dino import GroundingDinoFinder
from alchemint.perception.sam2 import Sam2Follower
from alchemint.perception.sightings import Box, Sought, as_crop, bounding_box, crop, frames_to_search
from alchemint.perception.watcher import Likeness, Watcher, find_anchors


@pytest.fixture
def finder(dino_model: Any, word_tokenizer: Any, dino_processor: Any) -> GroundingDinoFinder:
    return GroundingDinoFinder(dino_model, word_tokenizer, dino_processor, box_threshold=0.0)


@pytest.fixture
def comparer(clip_model: Any, word_tokenizer: Any, clip_processor: Any) -> ClipComparer:
    return ClipComparer(clip_model, word_tokenizer, clip_processor)


def test_frames_to_search_are_the_middles_of_equal_parts() -> None:
    assert frames_to_search(24, 4) == [3, 9, 15, 21]
    assert frames_to_search(3, 8) == [0, 1, 2]
    for num_frames in range(1, 60):
        searched = frames_to_search(num_frames, 8)
        assert len(set(searched)) == min(num_frames, 8)
        assert searched[0] >= 0 and searched[-1] < num_frames


def test_a_crop_is_cut_to_the_frame() -> None:
    frame = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    assert np.array_equal(crop(frame, (1.2, 0.0, 3.4, 2.0)), frame[0:2, 1:4])
    assert np.array_equal(crop(frame, (-5, -5, 99, 99)), frame)
    assert crop(frame, (9, 9, 9, 9)).shape == (1, 1, 3)


def test_boxes_are_the_models_own_in_pixels(finder: GroundingDinoFinder, video: np.ndarray) -> None:
    boxes = finder.find(video[:6], Sought("Fox"))
    assert {box.frame for box in boxes} == set(range(6))
    for frame in (0, 5):
        inputs = finder.processor(images=[video[frame]], return_tensors="pt")
        with torch.inference_mode():
            output = finder.model(**inputs, **finder.tokenizer("fox.", return_tensors="pt"))
        scores = output.logits[0].sigmoid().max(-1).values
        best = int(scores.argmax())
        x, y, w, h = output.pred_boxes[0, best].tolist()
        expected = [max(x - w / 2, 0) * 80, max(y - h / 2, 0) * 48, min(x + w / 2, 1) * 80, min(y + h / 2, 1) * 48]
        found = next(box for box in boxes if box.frame == frame)
        assert found.score == pytest.approx(scores[best].item(), abs=1e-5)
        assert found.corners == pytest.approx(expected, abs=1e-3)


def test_boxes_below_the_threshold_are_left_out(finder: GroundingDinoFinder, video: np.ndarray) -> None:
    scores = sorted((box.score for box in finder.find(video[:2], Sought("cup"))), reverse=True)
    threshold = (scores[6] + scores[7]) / 2
    strict = GroundingDinoFinder(finder.model, finder.tokenizer, finder.processor, threshold)
    kept = sorted((box.score for box in strict.find(video[:2], Sought("cup"))), reverse=True)
    assert kept == pytest.approx(scores[:7])


def test_the_likeliest_box_of_all_frames_is_followed(
    finder: GroundingDinoFinder, comparer: ClipComparer, sam_model: Any, video: np.ndarray
) -> None:
    perception = Watcher(finder, Sam2Follower(sam_model), comparer, num_search_frames=4)
    sought = [Sought("fox"), Sought("red balloon")]
    sightings = perception.look(video, sought)
    assert sightings.masks.shape == (2, *video.shape[:3])
    for one, anchor in zip(sought, sightings.anchors, strict=True):
        assert anchor is not None and anchor.frame in frames_to_search(len(video), 4)
        word = comparer.embed_words([one.word])[0]
        likeness = [float(comparer.embed_pictures([crop(video[frame], box.corners)])[0] @ word)
                    for frame in frames_to_search(len(video), 4) for box in finder.find(video[[frame]], one)]
        mine = float(comparer.embed_pictures([crop(video[anchor.frame], anchor.corners)])[0] @ word)
        assert mine == pytest.approx(max(likeness), abs=1e-5)


def test_what_is_never_found_has_no_mask(
    finder: GroundingDinoFinder, comparer: ClipComparer, sam_model: Any, video: np.ndarray
) -> None:
    strict = GroundingDinoFinder(finder.model, finder.tokenizer, finder.processor, box_threshold=1.0)
    sightings = Watcher(strict, Sam2Follower(sam_model), comparer).look(video, [Sought("fox")])
    assert sightings.anchors == (None,)
    assert not sightings.masks.any()


def test_what_is_too_unlike_its_references_is_dropped(
    finder: GroundingDinoFinder, comparer: ClipComparer, sam_model: Any, video: np.ndarray
) -> None:
    """The mean cosine of what was followed to the likeliest reference decides; without references nothing does."""
    follower = Sam2Follower(sam_model)
    cut_out = np.dstack([video[0], np.full(video[0].shape[:2], 255, np.uint8)])
    cut_out[:5, :, 3] = 0
    sought = [Sought("fox", (video[5], cut_out)), Sought("red balloon")]
    masks = Watcher(finder, follower, comparer).look(video, sought).masks
    assert masks.any((1, 2, 3)).all()
    frames = np.flatnonzero(masks[0].any((1, 2)))
    frames = frames[frames_to_search(len(frames), 12)]
    seen = comparer.embed_pictures([crop(video[frame], bounding_box(masks[0, frame])) for frame in frames])
    likeness = (seen @ comparer.embed_pictures([video[5], as_crop(cut_out)]).T).max(1).mean()
    for least, kept in ((likeness - 1e-4, True), (likeness + 1e-4, False)):
        strict = Watcher(finder, follower, comparer, Likeness(comparer, float(least)))
        looked = strict.look(video, sought).masks
        assert np.array_equal(looked[0], masks[0] if kept else np.zeros_like(masks[0]))
        assert np.array_equal(looked[1], masks[1])


def test_a_cut_out_as_a_crop_would_show_it() -> None:
    cut_out = np.zeros((8, 8, 4), np.uint8)
    cut_out[2:5, 1:7] = (200, 10, 20, 255)
    cut_out[3, 3] = (9, 9, 9, 0)
    cropped = as_crop(cut_out)
    assert cropped.shape == (3, 6, 3)
    assert cropped[0, 0].tolist() == [200, 10, 20]
    assert cropped[1, 2].tolist() == [127, 127, 127]
    assert np.array_equal(as_crop(cut_out[..., :3]), cut_out[..., :3])


def test_a_finder_in_a_lower_dtype_finds_the_same(finder: GroundingDinoFinder, video: np.ndarray) -> None:
    model = copy.deepcopy(finder.model).to(torch.bfloat16)
    low = GroundingDinoFinder(model, finder.tokenizer, finder.processor, 0.0).find(video[:1], Sought("fox"))
    exact = finder.find(video[:1], Sought("fox"))
    assert len(low) == len(exact)
    assert low[0].score == pytest.approx(exact[0].score, abs=0.02)


class Drawn:
    """A finder that finds the same boxes for every word, and a comparer that is told how alike they are.

    The video's frames are as many as the boxes; the box on a frame is known by the frame's colour.
    """

    sharpness = 100.0

    def __init__(self, words: list[str], alike: list[list[float]]) -> None:
        self.words, self.alike = words, np.array(alike)
        self.video = np.arange(len(alike), dtype=np.uint8).repeat(12).reshape(len(alike), 2, 2, 3)

    def find(self, frames: np.ndarray, sought: Sought) -> list[Box]:
        return [Box(frame, (0, 0, 2, 2), 0.1 * int(picture.max())) for frame, picture in enumerate(frames)]

    def embed_words(self, words: Sequence[str]) -> np.ndarray:
        return np.eye(len(self.words))[[self.words.index(word) for word in words]]

    def embed_pictures(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        return self.alike[[int(picture.max()) for picture in pictures]]

    def anchored(self, **options: Any) -> list[int]:
        """Return the box that is picked for each word."""
        anchors, likenesses = find_anchors(self.video, [Sought(word) for word in self.words], self, self, **options)
        frames = [anchor.frame for anchor in anchors if anchor is not None]
        assert likenesses == pytest.approx([self.alike[frame, word] for word, frame in enumerate(frames)])
        return frames


@pytest.mark.parametrize(("alike", "likeliest", "apart"), [
    ([[0.30, 0.29], [0.27, 0.275]], [0, 0], [0, 1]),
    ([[0.30, 0.29], [0.20, 0.22]], [0, 0], [0, 0]),
    ([[0.30, 0.20], [0.22, 0.31]], [0, 1], [0, 1]),
    ([[0.30, 0.24], [0.15, 0.05]], [0, 0], [0, 0]),
])
def test_two_words_do_not_share_a_box_where_another_is_nearly_as_good(
    alike: list[list[float]], likeliest: list[int], apart: list[int]
) -> None:
    """Twins are told apart; but what is much less like a word than the shared box is not taken for its own."""
    drawn = Drawn(["red cup", "blue cup"], alike)
    assert drawn.anchored() == likeliest
    assert drawn.anchored(apart=True) == apart


def test_of_a_single_word_the_likeliest_box_is_taken_either_way() -> None:
    drawn = Drawn(["cup"], np.random.default_rng(0).normal(0.25, 0.05, (8, 1)).tolist())
    assert drawn.anchored() == drawn.anchored(apart=True) == [int(drawn.alike.argmax())]


def test_without_a_comparer_the_surest_box_is_taken_and_no_likeness_told() -> None:
    drawn = Drawn(["cup", "fox"], [[0.3, 0.3], [0.1, 0.1], [0.2, 0.2]])
    anchors, likenesses = find_anchors(drawn.video, [Sought("cup"), Sought("fox")], drawn, None, apart=True)
    assert [anchor.frame for anchor in anchors if anchor] == [2, 2]
    assert likenesses == [None, None]


def test_only_the_frames_that_are_searched_are_read(finder: GroundingDinoFinder, comparer: ClipComparer,
                                                    video: np.ndarray) -> None:
    class Watched:
        shape = video.shape
        read: ClassVar[list[int]] = []

        def __len__(self) -> int:
            return len(video)

        def __getitem__(self, number: int) -> np.ndarray:
            self.read.append(number)
            return video[number]

    lazy = find_anchors(Watched(), [Sought("fox"), Sought("cup")], finder, comparer, 4)
    assert Watched.read == frames_to_search(len(video), 4)
    assert lazy == find_anchors(video, [Sought("fox"), Sought("cup")], finder, comparer, 4)
