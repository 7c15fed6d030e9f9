"""When each subject is really seen in a finished video, by the perception that S2VTime measures with.

The toy perception that the package ships knows small synthetic videos, such as those of the toy model; for others
Grounding DINO, CLIP and SAM 2 look, where their weights are at hand (`perception.loading.load_grounded_sam2`).
"""

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from alchemint import timeline
from alchemint.media import open_image
from alchemint.perception.sightings import Sought, is_seen
from alchemint.storyboard import Storyboard

if TYPE_CHECKING:
    from alchemint.perception.watcher import Watcher


def seen_intervals(
    frames: np.ndarray, fps: float, storyboard: Storyboard, watcher: "Watcher | None" = None
) -> dict[str, list[list[float]]]:
    """Return by subject name the intervals [start, end) in seconds in which it is seen, none where it never is.

    frames: the video, (frames, height, width, 3) uint8. storyboard: with pictures that can be opened. watcher: who
    looks, the shipped toy perception when None. All subjects are looked for at once: of two look-alikes, each place
    goes to the likelier one.
    """
    if not storyboard.subjects:
        return {}
    sought = [Sought(subject.word, tuple(_pixels(image) for image in subject.images))
              for subject in storyboard.subjects]
    masks = (watcher or _toy()).look(frames, sought).masks
    return {subject.name: [list(timeline.seconds_of(run, fps, len(frames)))
                           for run in timeline.runs(is_seen(mask).tolist())]
            for subject, mask in zip(storyboard.subjects, masks, strict=True)}


def _pixels(image: Any) -> np.ndarray:
    return np.asarray(open_image(image))


@cache
def _toy() -> "Watcher":
    from alchemint.perception.toy import load_toy_perception

    return load_toy_perception()[0]
