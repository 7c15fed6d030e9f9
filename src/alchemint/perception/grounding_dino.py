"""Grounding DINO (Liu et al., arXiv 2303.05499) as a finder: boxes of a word on single frames."""

from dataclasses import dataclass

import numpy as np
import torch
from transformers import GroundingDinoForObjectDetection, GroundingDinoImageProcessorPil, PreTrainedTokenizerBase

from alchemint.perception.sightings import Box, Sought

_FRAMES_PER_BATCH = 4


@dataclass(frozen=True)
class GroundingDinoFinder:
    """Finds a word; references are not looked at. One phrase is asked for at a time.

    box_threshold: the least score of a box, 0.25 as its users have it.
    """

    model: GroundingDinoForObjectDetection
    tokenizer: PreTrainedTokenizerBase
    processor: GroundingDinoImageProcessorPil
    box_threshold: float = 0.25

    @torch.inference_mode()
    def find(self, frames: np.ndarray, sought: Sought) -> list[Box]:
        """Return the boxes of `sought.word` on frames (frames, height, width, 3) uint8, each frame's surest first."""
        # The model was trained on lower-case phrases that end in a full stop.
        phrase = self.tokenizer(f"{sought.word.lower().strip().rstrip('.')}.", return_tensors="pt")
        phrase = {name: ids.to(self.model.device) for name, ids in phrase.items()}
        boxes = []
        for first in range(0, len(frames), _FRAMES_PER_BATCH):
            batch = frames[first:first + _FRAMES_PER_BATCH]
            inputs = self.processor(images=list(batch), return_tensors="pt").to(self.model.device)
            output = self.model(
                pixel_values=inputs["pixel_values"].to(self.model.dtype), pixel_mask=inputs["pixel_mask"],
                **{name: ids.expand(len(batch), -1) for name, ids in phrase.items()})
            scores = output.logits.float().sigmoid().amax(-1).cpu().numpy()
            corners = _corners(output.pred_boxes.float().cpu().numpy(), *frames.shape[1:3])
            for row in range(len(batch)):
                for query in np.argsort(-scores[row], kind="stable"):
                    if scores[row, query] < self.box_threshold:
                        break
                    boxes.append(Box(first + row, _as_tuple(corners[row, query]), float(scores[row, query])))
        return boxes


def _corners(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Turn (..., 4) centre x, centre y, width, height in 0..1 into corners in pixels, cut to the frame."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return np.concatenate([centre - half, centre + half], axis=-1).clip(0, 1) * [width, height, width, height]


def _as_tuple(corners: np.ndarray) -> tuple[float, float, float, float]:
    left, top, right, bottom = corners.tolist()
    return left, top, right, bottom
