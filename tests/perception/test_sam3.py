"""SAM 3 as finder and follower in one, with a tiny random model of the real class."""

import copy
import math
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers.models.sam3_video.modeling_sam3_video import Sam3VideoInferenceSession

from alchemint.perception import sam3
from alchemint.perception.sam3 import Sam3Spotter
from tests.perception.test_sam2 import Repeated, held

WORDS = ["fox", "red balloon"]
SIZE = 56


@pytest.fixture
def spotter(sam3_model: Any, word_tokenizer: Any) -> Sam3Spotter:
    return Sam3Spotter(sam3_model, word_tokenizer)


def plain_masks(spotter: Sam3Spotter, video: np.ndarray) -> dict[Any, np.ndarray]:
    """Return masks by frame, instance and word, of the model's own session with all frames in memory and nothing
    forgotten; of the instances of a word the surest has each pixel."""
    pixels = torch.from_numpy(video).permute(0, 3, 1, 2).float() / 255
    pixels = F.interpolate(pixels, (SIZE, SIZE), mode="bilinear", antialias=True)
    session = Sam3VideoInferenceSession(video=(pixels - 0.5) / 0.5, video_height=video.shape[1],
                                        video_width=video.shape[2], dtype=torch.float32)
    for number, word in enumerate(WORDS):
        inputs = spotter.tokenizer(word, return_tensors="pt", padding="max_length", max_length=32)
        assert session.add_prompt(word) == number
        session.prompt_input_ids[number] = inputs.input_ids
        session.prompt_attention_masks[number] = inputs.attention_mask
    masks = {}
    for output in spotter.model.propagate_in_video_iterator(session):
        hidden = output.suppressed_obj_ids | session.hotstart_removed_obj_ids
        free = np.ones((len(WORDS), *video.shape[1:3]), bool)
        shown = [instance for instance in output.obj_id_to_mask if instance not in hidden]
        for instance in sorted(shown, key=lambda one: -output.obj_id_to_tracker_score.get(one, 0.0)):
            word = session.obj_id_to_prompt_id[instance]
            logits = F.interpolate(output.obj_id_to_mask[instance][None], video.shape[1:3], mode="bilinear")[0, 0]
            mask = (logits > 0).numpy() & free[word]
            if mask.any():
                masks[output.frame_idx, instance, word] = mask
                free[word] &= ~mask
    return masks


def test_masks_are_the_models_own_and_what_is_forgotten_changes_none(spotter: Sam3Spotter, video: np.ndarray) -> None:
    """Of a video longer than the model's memory, in which instances are given anew more often than it looks back."""
    long = np.concatenate([video, video[::-1]])
    ours = {(one.mask.frame, one.mask.subject, one.word): one.mask.mask for one in spotter.see(long, WORDS)}
    theirs = plain_masks(spotter, long)
    assert ours.keys() == theirs.keys()
    assert {word for _, _, word in ours} == {0, 1}
    assert {frame for frame, _, _ in ours} == set(range(48))
    for key, mask in theirs.items():
        assert np.array_equal(ours[key], mask), key


def test_what_is_kept_does_not_grow_with_the_video_but_for_pointers(spotter: Sam3Spotter, video: np.ndarray) -> None:
    kept = []
    for num_frames in (40, 80):
        session, _ = spotter._prompted(Repeated(video, num_frames), WORDS)
        with torch.inference_mode():
            for output in spotter.model.propagate_in_video_iterator(session):
                sam3._forget(session, output.frame_idx, spotter.model.config)
        given = [given for outputs in session.output_dict_per_obj.values()
                 for given in outputs["cond_frame_outputs"].values()]
        elements, entries = held(session)
        pointers = sum(one["object_pointer"].numel() for one in given)
        kept.append((elements - pointers, entries - 2 * len(given), len(given)))
    assert kept[0][:2] == kept[1][:2]
    assert kept[1][2] - kept[0][2] == 2 * 40 / 4


def test_instances_of_a_word_do_not_overlap() -> None:
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(4, 6, 7, generator=generator) > 0.4
    scores = torch.tensor([0.2, 0.9, 0.5, 0.7])
    left = sam3._without_overlap(masks, scores)
    for row in range(6):
        for column in range(7):
            there = [number for number in range(4) if masks[number, row, column]]
            best = max(there, key=lambda number: float(scores[number]), default=None)
            assert [number for number in range(4) if left[number, row, column]] == ([] if best is None else [best])


def test_scores_tell_by_their_sign_whether_the_instance_is_in_sight(spotter: Sam3Spotter, video: np.ndarray) -> None:
    scores = defaultdict(list)
    for one in spotter.see(video[:6], WORDS):
        scores[one.mask.subject].append(one.mask.score)
        assert 0 < one.detection < 1
    with torch.inference_mode():
        bias = float(spotter.model.tracker_model.mask_decoder.pred_obj_score_head.proj_out.bias)
    for told in scores.values():
        assert told[1:] == pytest.approx([bias] * 5, abs=0.3)
    assert sam3._logit(0.5) == 0
    assert sam3._logit(0.9) == pytest.approx(math.log(9))
    assert math.isfinite(sam3._logit(1.0)) and math.isfinite(sam3._logit(-1e4))


def test_it_runs_in_the_models_dtype(spotter: Sam3Spotter, video: np.ndarray) -> None:
    low = Sam3Spotter(copy.deepcopy(spotter.model).to(torch.bfloat16), spotter.tokenizer)
    assert {one.word for one in low.see(video[:8], WORDS)} == {0, 1}


def test_nothing_is_seen_of_no_words(spotter: Sam3Spotter, video: np.ndarray) -> None:
    assert list(spotter.see(video, [])) == []
    assert spotter.delay == 14
