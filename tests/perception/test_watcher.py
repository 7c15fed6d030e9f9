"""Perception with tiny random models of the real classes: what is promised holds whatever the weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from alchemint.perception import sam2
from alchemint.perception.clip import ClipComparer
from alchemint.perception.grounding_dino import GroundingDinoFinder
from alchemint.perception.sam2 import Sam2Follower
from alchemint.perception.sightings import Box, Sought, as_crop, bounding_box, crop, frames_to_search
from alchemint.perception.watcher import Likeness, Watcher, load_grounded_sam2


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


def test_embeddings_are_unit_vectors_whatever_the_batch(comparer: ClipComparer, video: np.ndarray) -> None:
    pictures = [video[0], video[1][:20, :7], video[2][:, :30], *video[3:23]] * 4
    together = comparer.embed_pictures(pictures)
    assert together.shape == (92, 16)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(together[[1, 70]], np.concatenate([comparer.embed_pictures([pictures[row]])
                                                                 for row in (1, 70)]), atol=1e-5)
    words = comparer.embed_words(["fox", "red balloon"])
    np.testing.assert_allclose(words[0], comparer.embed_words(["fox"])[0], atol=1e-5)
    assert comparer.embed_pictures([]).shape == (0, 16)


def plain_masks(model: Any, video: np.ndarray, anchor: Box) -> np.ndarray:
    """One subject followed by the model's own session with all frames in memory and nothing forgotten."""
    num_frames, height, width, _ = video.shape
    pixels = torch.from_numpy(video).permute(0, 3, 1, 2).float() / 255
    pixels = F.interpolate(pixels, (64, 64), mode="bilinear", antialias=True)
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 1, 3, 1, 1)
    session = sam2.Sam2VideoInferenceSession(video=(pixels - mean) / std, video_height=height, video_width=width,
                                             dtype=torch.float32)
    corners = torch.tensor(anchor.corners).view(1, 1, 2, 2) * torch.tensor([64 / width, 64 / height])
    session.add_point_inputs(session.obj_id_to_idx(0), anchor.frame, {
        "point_coords": corners, "point_labels": torch.tensor([[[2, 3]]], dtype=torch.int32)})
    session.obj_with_new_inputs = [0]
    masks = np.zeros((num_frames, height, width), bool)
    with torch.inference_mode():
        model(session, frame_idx=anchor.frame)
        for reverse in (False, True):
            for output in model.propagate_in_video_iterator(session, start_frame_idx=anchor.frame, reverse=reverse):
                if (output.frame_idx < anchor.frame) == reverse:
                    logits = F.interpolate(output.pred_masks, (height, width), mode="bilinear")[0, 0]
                    masks[output.frame_idx] = (logits > 0) & (output.object_score_logits.flatten()[0] > 0)
    return masks


@pytest.mark.parametrize("frame", [0, 9, 23])
def test_what_is_forgotten_changes_no_mask(sam_model: Any, video: np.ndarray, frame: int,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a video longer than the model's memory."""
    long = np.concatenate([video, video[::-1]])
    anchor = Box(frame, (2.0 * frame, 10.0, 2.0 * frame + 20, 30.0), 1.0)
    assert np.array_equal(Sam2Follower(sam_model).follow(long, [anchor])[0], plain_masks(sam_model, long, anchor))


def test_what_is_kept_does_not_grow_with_the_video(sam_model: Any, video: np.ndarray) -> None:
    follower, kept = Sam2Follower(sam_model), []
    for repeats in (4, 8):
        long = np.concatenate([video] * repeats)
        session = follower._prompted(long, [Box(0, (0, 10, 20, 30), 1.0), Box(40, (30, 10, 50, 30), 1.0)])
        most = 0
        for _ in follower._passed(session, 0, False, [0, 40]):
            most = max(most, sum(len(row["non_cond_frame_outputs"]) for row in session.output_dict_per_obj.values()))
        kept.append(most)
        # All but the frame at work, which the loop's last turn has not come to.
        assert not any("high_res_masks" in output for row in session.output_dict_per_obj.values()
                       for frames in row.values() for frame, output in frames.items() if frame < len(long) - 1)
    assert kept[0] == kept[1] <= 2 * 3 * (2 * sam2._MEMORY_FRAMES + 1)


def test_nothing_to_follow_is_no_mask(sam_model: Any, video: np.ndarray) -> None:
    assert Sam2Follower(sam_model).follow(video, []).shape == (0, *video.shape[:3])


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


def test_folders_of_the_real_layout_are_loaded(
    saved_models: Callable[..., Path], dino_model: Any, dino_processor: Any, clip_model: Any, clip_processor: Any,
    sam_model: Any, finder: GroundingDinoFinder, video: np.ndarray
) -> None:
    perception = load_grounded_sam2(saved_models("dino", dino_model, dino_processor),
                                    saved_models("clip", clip_model, clip_processor), saved_models("sam", sam_model))
    assert isinstance(perception.finder, GroundingDinoFinder)
    assert perception.finder.box_threshold == 0.25
    loose = GroundingDinoFinder(perception.finder.model, perception.finder.tokenizer, perception.finder.processor, 0.0)
    assert loose.find(video[:1], Sought("fox")) == finder.find(video[:1], Sought("fox"))
    assert perception.look(video, [Sought("fox")]).masks.shape == (1, *video.shape[:3])
