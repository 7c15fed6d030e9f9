"""The toy perception: its rules on drawings made by hand, and the shipped weights on clips whose truth is known."""

import numpy as np
import pytest
import torch

from alchemint.cli import perceptions
from alchemint.perception import toy
from alchemint.perception.sightings import Sought
from alchemint.perception.watcher import Watcher
from alchemint.toyworld import Clip, WorldConfig, render_clip

needs_weights = pytest.mark.skipif(not (perceptions.FOLDER / "matcher.safetensors").is_file(),
                                   reason="the toy perception is not there")


@pytest.fixture
def sight() -> toy.MatchingSight:
    torch.manual_seed(0)
    return toy.MatchingSight(toy.Matcher(width=16).eval())


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
    ([0.2, 0.9, 0.9, 0.9, 0.2], [0, 1, 2, 3, 4]),
    ([0.0, 0.9, 0.9, 0.0, 0.0], []),
    ([0.5, 0.5, 0.5, 0.5, 0.5], []),
    ([0.9, 0.9, 0.0, 0.9, 0.9], [0, 1, 2, 3, 4]),
    ([0.9, 0.9, 0.0, 0.0, 0.9], []),
    ([0.9, 0.9, 0.9, 0.0, 0.0, 0.9, 0.9, 0.9], [0, 1, 2, 5, 6, 7]),
    ([0.9, 0.9, 0.9, 0.0, 0.0, 0.9, 0.0, 0.0], [0, 1, 2]),
    ([0.1, 0.1, 0.1], []),
])
def test_runs_need_sure_frames_and_reach_into_faint_ones(
    sight: toy.MatchingSight, levels: list[float], expected: list[int]
) -> None:
    masks = sight._runs(drawn(levels))
    assert np.flatnonzero(masks.any((1, 2))).tolist() == expected
    assert not masks[:, 8:].any() and not masks[:, :, 8:].any()


def test_all_that_are_sought_share_a_place() -> None:
    logits = torch.tensor([[2.0, -1.0, 30.0], [2.0, -9.0, -30.0]])
    shares = toy.shares(logits)
    expected = logits.double().exp() / (1 + logits.double().exp().sum(0))
    assert torch.allclose(shares.double(), expected, atol=1e-6)
    assert (shares.sum(0) < 1 + 1e-6).all()


def test_pairs_are_compared_one_by_one(sight: toy.MatchingSight) -> None:
    """The logits of a pair do not depend on what else is in the batch."""
    torch.manual_seed(1)
    frames, references = torch.rand(3, 3, toy.SIZE, toy.SIZE) - 0.5, torch.rand(2, 3, toy.CANVAS, toy.CANVAS) - 0.5
    frame_of, reference_of = torch.tensor([0, 2, 1]), torch.tensor([1, 0, 1])
    with torch.inference_mode():
        together = sight.matcher(frames, references, frame_of, reference_of)
        for row, (frame, reference) in enumerate(zip(frame_of, reference_of, strict=True)):
            alone = sight.matcher(frames[frame][None], references[reference][None], torch.tensor([0]),
                                  torch.tensor([0]))
            assert torch.allclose(together[row], alone[0], atol=1e-5)
    assert together.shape == (3, 16, 16)


@pytest.mark.parametrize("size", [(64, 64), (48, 80), (128, 96)])
def test_masks_are_of_the_videos_size(sight: toy.MatchingSight, size: tuple[int, int]) -> None:
    video = np.random.default_rng(0).integers(0, 255, (5, *size, 3), np.uint8)
    sought = [Sought("fox", (video[0],)), Sought("duck", (np.dstack([video[1], video[1][..., :1]]),))]
    masks = sight.follow(video, [], sought)
    assert masks.shape == (2, 5, *size)
    assert masks.dtype == bool
    assert sight.follow(video, [], []).shape == (0, 5, *size)


def test_it_needs_a_reference(sight: toy.MatchingSight) -> None:
    with pytest.raises(ValueError, match='"fox" has no reference picture'):
        sight.find(np.zeros((2, 64, 64, 3), np.uint8), Sought("fox"))


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
