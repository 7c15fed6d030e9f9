"""The toy perception: its rules on drawings made by hand, and the shipped weights on clips whose truth is known."""

import numpy as np
import pytest
import torch

from alchemint.cli import perceptions
from alchemint.perception import matcher as network
from alchemint.perception import toy
from alchemint.perception.sightings import Box, Sought
from alchemint.perception.watcher import Watcher
from alchemint.toyworld import Clip, WorldConfig, render_clip

needs_weights = pytest.mark.skipif(not (perceptions.FOLDER / "matcher.safetensors").is_file(),
                                   reason="the toy perception is not there")


@pytest.fixture
def sight() -> toy.MatchingSight:
    torch.manual_seed(0)
    return toy.MatchingSight(network.Matcher(width=16).eval())


@pytest.fixture(scope="module")
def watcher() -> Watcher:
    return perceptions.load_toy()[0]


def drawn(levels: list[float]) -> np.ndarray:
    """Return shares (frames, 16, 16) with a block of a quarter of the frame at each level."""
    shares = np.zeros((len(levels), 16, 16), np.float32)
    shares[:, :8, :8] = np.array(levels)[:, None, None]
    return shares


@pytest.mark.parametrize(("levels", "expected"), [
    ([0.0, 0.9, 0.9, 0.9, 0.0], [1, 2, 3]),
    ([0.3, 0.9, 0.9, 0.9, 0.3], [0, 1, 2, 3, 4]),
    ([0.0, 0.9, 0.9, 0.0, 0.0], []),
    ([0.5, 0.5, 0.5, 0.5, 0.5], []),
    ([0.9, 0.9, 0.0, 0.9, 0.9], [0, 1, 2, 3, 4]),
    ([0.9, 0.9, 0.0, 0.0, 0.9], []),
    ([0.9, 0.9, 0.9, 0.0, 0.0, 0.9, 0.9, 0.9], [0, 1, 2, 5, 6, 7]),
    ([0.9, 0.9, 0.9, 0.0, 0.0, 0.9, 0.0, 0.0], [0, 1, 2]),
    ([0.2, 0.9, 0.9, 0.9, 0.1], [1, 2, 3]),
    ([0.1, 0.1, 0.1], []),
])
def test_runs_need_sure_frames_and_reach_into_faint_ones(
    sight: toy.MatchingSight, levels: list[float], expected: list[int]
) -> None:
    masks = sight._runs(drawn(levels)) > 0.5
    assert np.flatnonzero(masks.any((1, 2))).tolist() == expected
    assert not masks[:, 8:].any() and not masks[:, :, 8:].any()


def test_all_that_are_sought_share_a_place() -> None:
    logits = torch.tensor([[2.0, -1.0, 30.0], [2.0, -9.0, -30.0]])
    shares = network.shares(logits)
    expected = logits.double().exp() / (1 + logits.double().exp().sum(0))
    assert torch.allclose(shares.double(), expected, atol=1e-6)
    assert (shares.sum(0) < 1 + 1e-6).all()


def test_the_sought_are_compared_one_by_one(sight: toy.MatchingSight) -> None:
    """The logits of one that is sought do not depend on who else is, nor on other videos."""
    torch.manual_seed(1)
    videos = torch.rand(2, 4, 3, network.SIZE, network.SIZE) - 0.5
    with torch.inference_mode():
        looks = sight.matcher.looks_of_pictures(torch.rand(6, 3, network.CANVAS, network.CANVAS) - 0.5)
        looks = network.Looks(*(part.unflatten(0, (2, 3)) for part in looks))
        together = sight.matcher(videos, looks)
        for video in range(2):
            for one in range(3):
                its = network.Looks(*(part[video, one][None, None] for part in looks))
                alone = sight.matcher(videos[video][None], its)
                assert torch.allclose(together[video, one], alone[0, 0], atol=1e-5)
    assert together.shape == (2, 3, 4, 32, 32)


def test_frames_see_as_far_as_their_neighbours_neighbours(sight: toy.MatchingSight) -> None:
    torch.manual_seed(2)
    video = torch.rand(1, 8, 3, network.SIZE, network.SIZE) - 0.5
    other = video.clone()
    other[0, 4] += 0.1
    with torch.inference_mode():
        looks = network.Looks(*(part[None] for part in sight.matcher.looks_of_anything()))
        changes = (sight.matcher(video, looks) - sight.matcher(other, looks)).abs().amax((0, 1, 3, 4))
    assert (changes > 0).tolist() == [False, False, True, True, True, True, True, False]


def test_what_does_not_count_in_looks_changes_nothing(sight: toy.MatchingSight) -> None:
    torch.manual_seed(3)
    video = torch.rand(1, 2, 3, network.SIZE, network.SIZE) - 0.5
    with torch.inference_mode():
        features, counts = sight.matcher.looks_of_anything()
        alone = sight.matcher(video, network.Looks(features[None], counts[None]))
        more = network.Looks(torch.cat([features, torch.randn(1, 5, 16)], 1)[None],
                         torch.cat([counts, torch.zeros(1, 5, dtype=torch.bool)], 1)[None])
        assert torch.allclose(sight.matcher(video, more), alone, atol=1e-4)


@pytest.mark.parametrize("size", [(64, 64), (48, 80), (128, 96)])
def test_masks_are_of_the_videos_size(sight: toy.MatchingSight, size: tuple[int, int]) -> None:
    video = np.random.default_rng(0).integers(0, 255, (5, *size, 3), np.uint8)
    sought = [Sought("fox", (video[0],)), Sought("duck", (np.dstack([video[1], video[1][..., :1]]),))]
    anchors = [Box(0, (0, 0, 9, 9), 1.0)] * 2
    masks = list(sight.follow(video, anchors, sought))
    assert sorted((one.subject, one.frame) for one in masks) == [(who, when) for who in range(2) for when in range(5)]
    assert all(one.mask.shape == size and one.mask.dtype == bool for one in masks)
    assert list(sight.follow(video, [], [])) == []


def test_without_a_reference_everything_is_found(sight: toy.MatchingSight, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two things touch on the first frame; on the second one stands alone. Explained away, it leaves the other one."""
    one, other = np.zeros((2, 2, 32, 32), np.float32)
    one[:, 4:12, 4:12] = 0.9
    other[0, 4:12, 12:22] = 0.8
    other[0, 30, 30] = 1.0  # a speck
    asked = []

    def draw(self: toy.MatchingSight, videos: torch.Tensor, looks: network.Looks) -> np.ndarray:
        asked.append(len(looks.features))
        whole = (one + other)[:, None, None]
        return whole if videos.shape[1] == 1 else np.stack([one, other][:len(looks.features)])[None]

    monkeypatch.setattr(toy.MatchingSight, "_draw", draw)
    frames = np.zeros((2, 32, 32, 3), np.uint8)
    boxes = sight.find(frames, Sought("fox"))
    assert {(box.frame, box.corners) for box in boxes} == {
        (0, (4, 4, 22, 12)), (1, (4, 4, 12, 12)), (0, (4, 4, 12, 12))}
    calls = len(asked)
    assert sight.find(frames, Sought("dog")) == boxes
    assert len(asked) == calls, "what is on the same frames is looked for once"


def sought_in(clip: Clip) -> list[Sought]:
    return [Sought(subject.word, subject.references) for subject in clip.subjects]


@needs_weights
def test_shipped_weights_see_never_seen_subjects_when_they_are_there(watcher: Watcher) -> None:
    """Twenty subjects of clips that no suite has; the whole accuracy is measured by benchmarks/toy_perception.py."""
    right = []
    for index in range(500_000, 500_010):
        clip = render_clip("heldout", index, WorldConfig(), num_subjects=2)
        for seen, truth in zip(watcher.look(clip.frames, sought_in(clip)).masks, clip.masks, strict=True):
            ours, theirs = (np.flatnonzero(masks.mean((1, 2)) > 1 / 500) for masks in (seen, truth))
            right.append(len(ours) > 0 and abs(ours[0] - theirs[0]) < 2 and abs(ours[-1] - theirs[-1]) < 2)
    assert np.mean(right) >= 0.8


@needs_weights
def test_shipped_weights_do_not_see_strangers(watcher: Watcher) -> None:
    clips = [render_clip("heldout", index, WorldConfig(), num_subjects=1) for index in range(500_000, 500_010)]
    absent = [not watcher.look(clip.frames, sought_in(other)).masks.any()
              for clip, other in zip(clips, clips[1:] + clips[:1], strict=True)]
    assert np.mean(absent) >= 0.8
