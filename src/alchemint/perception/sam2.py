"""SAM 2 (Ravi et al., arXiv 2408.00714) as a follower: masks of all subjects, forwards and backwards.

All subjects are prompted at their anchors. One pass goes forwards from the earliest anchor, one backwards from the
latest; each subject keeps the backward masks before its own anchor and the forward masks from there on.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from transformers import Sam2VideoInferenceSession, Sam2VideoModel

from alchemint.perception.model_frames import ModelFrames
from alchemint.perception.sightings import Box, Frames, Mask, Sought

_MEMORY_FRAMES = 16
"""Outputs further than this from the frame at work and from all anchors are never read again by the model."""

_BOX_CORNERS = (2, 3)
"""The labels by which the model takes two points for a box."""

# SAM 2's own normalisation, that of ImageNet.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Sam2Follower:
    """Follows boxes through a video, a frame at a time: memory does not grow with the video.

    It runs where the model lies and in the model's dtype.
    """

    model: Sam2VideoModel

    @torch.inference_mode()
    def follow(self, video: Frames, anchors: Sequence[Box], sought: Sequence[Sought] = ()) -> Iterator[Mask]:
        """Yield the masks of all anchors, first those forwards in time, then those backwards.

        `sought` is not looked at. A subject that the model holds to be out of sight on a frame has an empty mask there;
        the score is the model's logit of its being in sight.
        """
        if not anchors:
            return
        session = self._prompted(video, anchors)
        frames = [anchor.frame for anchor in anchors]
        for start, reverse in ((min(frames), False), (max(frames), True)):
            for output in self._passed(session, start, reverse, frames):
                wanted = [subject for subject, anchor in enumerate(frames) if (output.frame_idx < anchor) == reverse]
                yield from _masks(output, wanted, video.shape[1:3])

    def _prompted(self, video: Frames, anchors: Sequence[Box]) -> Sam2VideoInferenceSession:
        """Return a session in which every anchor was given and answered."""
        height, width = video.shape[1:3]
        device, size = self.model.device, self.model.config.image_size
        session = Sam2VideoInferenceSession(video_height=height, video_width=width, inference_device=device,
                                            inference_state_device=device, dtype=self.model.dtype)
        session.processed_frames = ModelFrames(video, size, _MEAN, _STD, device, self.model.dtype)
        scale = torch.tensor([size / width, size / height])
        for number, anchor in enumerate(anchors):
            subject = session.obj_id_to_idx(number)
            session.add_point_inputs(subject, anchor.frame, {
                "point_coords": torch.tensor(anchor.corners, dtype=torch.float32).view(1, 1, 2, 2) * scale,
                "point_labels": torch.tensor([[_BOX_CORNERS]], dtype=torch.int32)})
            session.obj_with_new_inputs = [number]
            # Right after each prompt: with two prompts waiting the model raises.
            self.model(session, frame_idx=anchor.frame)
        return session

    def _passed(self, session: Sam2VideoInferenceSession, start: int, reverse: bool,
                anchors: list[int]) -> Iterator[Any]:
        for output in self.model.propagate_in_video_iterator(session, start_frame_idx=start, reverse=reverse):
            yield output
            _forget(session, output.frame_idx, anchors)


def _masks(output: Any, wanted: list[int], size: tuple[int, ...]) -> Iterator[Mask]:
    """Yield the masks, (height, width) = size, of the wanted subjects of a frame's output."""
    if not wanted:
        return
    logits = F.interpolate(output.pred_masks[wanted].float(), size, mode="bilinear", align_corners=False)[:, 0]
    scores = output.object_score_logits.flatten()[wanted].float()
    seen = ((logits > 0) & (scores > 0).view(-1, 1, 1)).cpu().numpy()
    for subject, mask, score in zip(wanted, seen, scores.tolist(), strict=True):
        yield Mask(subject, output.frame_idx, mask, score)


def _forget(session: Sam2VideoInferenceSession, frame: int, anchors: list[int]) -> None:
    """Drop what the session keeps but never reads: large masks, and all that is far from the frame and the anchors."""
    near = [frame, *anchors]
    for subject, outputs in session.output_dict_per_obj.items():
        for kept in outputs.values():
            for output in kept.values():
                output.pop("high_res_masks", None)
        for rest in (outputs["non_cond_frame_outputs"], session.frames_tracked_per_obj[subject]):
            for number in [number for number in rest if min(abs(number - other) for other in near) > _MEMORY_FRAMES]:
                del rest[number]
