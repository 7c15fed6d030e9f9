"""SAM 2 as a follower, with a tiny random model of the real class."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from alchemint.perception import sam2
from alchemint.perception.sam2 import Sam2Follower
from alchemint.perception.sightings import Box, gathered


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
    followed = gathered(Sam2Follower(sam_model).follow(long, [anchor]), 1, long)
    assert np.array_equal(followed[0], plain_masks(sam_model, long, anchor))


class Repeated:
    """A video that repeats another: of frames that are asked for in turn, none lies in memory twice."""

    def __init__(self, video: np.ndarray, num_frames: int) -> None:
        self.shape = (num_frames, *video.shape[1:])
        self._video = video

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, number: int) -> np.ndarray:
        return self._video[number % len(self._video)]


def held(session: Any) -> tuple[int, int]:
    """Return how many tensor elements, and how many entries of dictionaries, a session holds in all."""
    elements = entries = 0
    rest = [value for name, value in vars(session).items() if name != "processed_frames"]
    while rest:
        value = rest.pop()
        if isinstance(value, torch.Tensor):
            elements += value.numel()
        elif isinstance(value, dict):
            entries += len(value)
            rest.extend(value.values())
        elif isinstance(value, list | tuple):
            entries += len(value)
            rest.extend(value)
        elif hasattr(value, "_vision_features"):
            rest.append(value._vision_features)
    return elements, entries


def test_what_is_kept_does_not_grow_with_the_video(sam_model: Any, video: np.ndarray) -> None:
    """Of two subjects, one of them found late; forwards and backwards."""
    follower, kept = Sam2Follower(sam_model), []
    for num_frames in (80, 120):
        session = follower._prompted(Repeated(video, num_frames), [
            Box(0, (0, 10, 20, 30), 1.0), Box(60, (30, 10, 50, 30), 1.0)])
        most = (0, 0)
        for start, reverse in ((0, False), (60, True)):
            for _ in follower._passed(session, start, reverse, [0, 60]):
                most = max(most, held(session))
        kept.append(most)
    assert kept[0] == kept[1]


def test_masks_come_as_they_are_made_with_the_models_score(sam_model: Any, video: np.ndarray) -> None:
    """Once for every subject and frame: forwards from the earliest anchor, then backwards from the latest."""
    anchors = [Box(3, (2, 10, 20, 30), 1.0), Box(12, (30, 10, 50, 30), 1.0)]
    masks = Sam2Follower(sam_model).follow(video, anchors)
    first = next(masks)
    assert (first.subject, first.frame) == (0, 3)
    rest = [first, *masks]
    places = [(one.subject, one.frame) for one in rest]
    assert sorted(places) == [(subject, frame) for subject in range(2) for frame in range(len(video))]
    for subject, anchor in enumerate((3, 12)):
        assert [frame for who, frame in places if who == subject] == [*range(anchor, 24), *range(anchor - 1, -1, -1)]
    assert all(one.score > 0 for one in rest if one.mask.any())
    assert len({one.score for one in rest}) > 20


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_it_runs_in_the_models_dtype(sam_model: Any, video: np.ndarray, dtype: torch.dtype) -> None:
    low = Sam2Follower(copy.deepcopy(sam_model).to(dtype))
    anchor = Box(9, (2, 10, 20, 30), 1.0)
    frames = low._prompted(video, [anchor]).processed_frames
    assert frames[0].dtype == dtype
    first, exact = (next(follower.follow(video, [anchor])) for follower in (low, Sam2Follower(sam_model)))
    assert first.score == pytest.approx(exact.score, abs=0.1)
    assert gathered(low.follow(video, [anchor]), 1, video).any()


def test_nothing_to_follow_is_no_mask(sam_model: Any, video: np.ndarray) -> None:
    assert list(Sam2Follower(sam_model).follow(video, [])) == []
