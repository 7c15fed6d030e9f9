"""SAM 3 (Carion et al., arXiv 2511.16719) as finder and follower in one: all instances of each word, frame by frame.

Every frame is searched for the words, so one pass forwards sees what comes in late, too. Its weights are gated.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from transformers import PreTrainedTokenizerBase, Sam3VideoInferenceSession, Sam3VideoModel

from alchemint.perception.model_frames import ModelFrames
from alchemint.perception.sightings import Frames, Mask

_MEAN = _STD = (0.5, 0.5, 0.5)

_SURE = 1e-6
"""Probabilities are told as logits as if they were at least this far from 0 and 1."""


@dataclass(frozen=True)
class Spotted:
    """An instance of a word (its place among the words) on a frame; `mask.subject` counts the instances of all words.

    detection: how sure the detector was of the instance when it first saw it, 0..1.
    """

    word: int
    detection: float
    mask: Mask


@dataclass(frozen=True)
class Sam3Spotter:
    """Sees all instances of words in a video. Memory grows with their number, not with the video but for a kilobyte for
    each instance and 16 frames.

    It runs where the model lies and in the model's dtype.
    """

    model: Sam3VideoModel
    tokenizer: PreTrainedTokenizerBase

    @property
    def delay(self) -> int:
        """By how many frames the masks come later than the frames are read."""
        return max(0, int(self.model.config.hotstart_delay) - 1)

    @torch.inference_mode()
    def see(self, video: Frames, words: Sequence[str]) -> Iterator[Spotted]:
        """Yield the masks of all instances, frame by frame; frames on which an instance is out of sight are left out.

        The mask's score is the logit of its being in sight. Instances of one word do not overlap.
        """
        if not words:
            return
        session, word_of = self._prompted(video, words)
        for output in self.model.propagate_in_video_iterator(session):
            yield from _spotted(output, session, word_of, video.shape[1:3])
            _forget(session, output.frame_idx, self.model.config)

    def _prompted(self, video: Frames, words: Sequence[str]) -> tuple[Sam3VideoInferenceSession, dict[int, int]]:
        """Return a session that is asked for all words, and which word each of its prompts is."""
        height, width = video.shape[1:3]
        device, config = self.model.device, self.model.config
        session = Sam3VideoInferenceSession(video_height=height, video_width=width, inference_device=device,
                                            inference_state_device=device, dtype=self.model.dtype)
        session.processed_frames = ModelFrames(video, config.image_size, _MEAN, _STD, device, self.model.dtype)
        word_of: dict[int, int] = {}
        for number, word in enumerate(words):
            prompt = session.add_prompt(word)
            inputs = self.tokenizer(word, padding="max_length", truncation=True, return_tensors="pt",
                                    max_length=config.detector_config.text_config.max_position_embeddings).to(device)
            session.prompt_input_ids[prompt] = inputs["input_ids"]
            session.prompt_attention_masks[prompt] = inputs["attention_mask"]
            word_of.setdefault(prompt, number)
        return session, word_of


def _spotted(output: Any, session: Sam3VideoInferenceSession, word_of: dict[int, int],
             size: tuple[int, ...]) -> Iterator[Spotted]:
    """Yield what a frame's output shows, (height, width) = size, as the model's own processor does it."""
    hidden = {*(output.suppressed_obj_ids or ()), *session.hotstart_removed_obj_ids}
    instances = sorted(instance for instance in output.obj_id_to_mask if instance not in hidden)
    if not instances:
        return
    logits = torch.cat([output.obj_id_to_mask[instance] for instance in instances])[:, None].float()
    seen = F.interpolate(logits, size, mode="bilinear", align_corners=False)[:, 0] > 0
    sure = [output.obj_id_to_tracker_score.get(instance, 0.0) for instance in instances]
    words = [word_of[session.obj_id_to_prompt_id[instance]] for instance in instances]
    for word in set(words):
        rows = [row for row, other in enumerate(words) if other == word]
        seen[rows] = _without_overlap(seen[rows], torch.tensor([sure[row] for row in rows], device=seen.device))
    for row, mask in enumerate(seen.cpu().numpy()):
        if mask.any():
            yield Spotted(words[row], float(output.obj_id_to_score[instances[row]]),
                          Mask(instances[row], output.frame_idx, mask, _logit(sure[row])))


def _without_overlap(masks: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """Return masks (instances, height, width) with each pixel left to the one with the highest score (instances)."""
    owner = torch.where(masks, scores[:, None, None], -torch.inf).argmax(0)
    return masks & (owner == torch.arange(len(masks), device=masks.device)[:, None, None])


def _logit(probability: float) -> float:
    within = min(max(probability, _SURE), 1 - _SURE)
    return math.log(within / (1 - within))


def _forget(session: Sam3VideoInferenceSession, frame: int, config: Any) -> None:
    """Drop what the session keeps but never reads on its way forwards, of frames before `frame` and some more.

    The model looks back at the outputs of a few frames and at those of the last frames on which an instance was given
    anew; of all earlier ones of these it takes only the object pointer.
    """
    tracker = config.tracker_config
    oldest = frame - max(tracker.num_maskmem, tracker.max_object_pointers_in_encoder)
    for subject, outputs in session.output_dict_per_obj.items():
        for rest in (outputs["non_cond_frame_outputs"], session.frames_tracked_per_obj[subject]):
            for number in [number for number in rest if number < oldest]:
                del rest[number]
        given = outputs["cond_frame_outputs"]
        recent = sorted(given) if tracker.max_cond_frame_num < 0 else sorted(given)[-tracker.max_cond_frame_num:]
        for number in given:
            if number < oldest and number not in recent:
                given[number] = {"object_pointer": given[number]["object_pointer"]}
        for kept in outputs.values():
            for output in kept.values():
                output.pop("high_res_masks", None)
        for rest in (session.mask_inputs_per_obj[subject], session.point_inputs_per_obj[subject]):
            for number in [number for number in rest if number < oldest]:
                del rest[number]
    session.obj_id_to_tracker_score_frame_wise.clear()
    session.suppressed_obj_ids.clear()
    for lists, most in ((session.unmatched_frame_inds, config.hotstart_unmatch_thresh),
                        (session.overlap_pair_to_frame_inds, config.hotstart_dup_thresh)):
        for numbers in lists.values():
            del numbers[:-most]
