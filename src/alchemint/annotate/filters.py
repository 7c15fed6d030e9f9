"""Which of the subjects that were followed are kept, and why the others are not.

First every frame in which a subject fills too little of the picture is taken for one without it; what is left of its
track is then judged by each filter in the order of `FILTERS`, and at last against the other subjects.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from pycocotools import mask as coco

from alchemint.annotate.clip import Clip, Followed
from alchemint.annotate.figures import confidence, truncation
from alchemint.annotate.recipe import Filters
from alchemint.masks import mask_text
from alchemint.records import Dropped, Track

Filter = Callable[[Followed, Clip, Filters], tuple[float, float] | None]
"""What was measured and what is allowed, where a subject is to go; None where it may stay."""


def judge(clip: Clip, options: Filters) -> Clip:
    """Return the clip with the subjects that pass all filters; the others go to `dropped`."""
    kept: list[Followed] = []
    dropped = list(clip.dropped)
    for one in (_without_slivers(followed, clip, options) for followed in clip.followed):
        fault = next(((name, *found) for name, check in FILTERS.items() if (found := check(one, clip, options))), None)
        if fault is None:
            kept.append(one)
        else:
            dropped.append(Dropped(word=one.found.word, filter=fault[0], value=round(fault[1], 4), threshold=fault[2]))
    kept, doubles = _without_doubles(kept, clip, options.max_overlap)
    return replace(clip, followed=tuple(kept), dropped=(*dropped, *doubles))


def _unseen(one: Followed, clip: Clip, options: Filters) -> tuple[float, float] | None:
    """Never seen, or not for long enough."""
    seen_s = sum(one.track.present()) / clip.facts.fps
    least = options.min_seen_s or 0.0
    return (seen_s, least) if seen_s == 0 or seen_s < least else None


def _below(figure: str, threshold: str) -> Filter:
    def check(one: Followed, clip: Clip, options: Filters) -> tuple[float, float] | None:
        least = getattr(options, threshold)
        value = one.figures.get(figure)
        return (value, least) if least is not None and value is not None and value < least else None

    return check


def _truncated(one: Followed, clip: Clip, options: Filters) -> tuple[float, float] | None:
    most, value = options.max_truncation, one.figures.get("truncation")
    return (value, most) if most is not None and value is not None and value > most else None


FILTERS: dict[str, Filter] = {
    "seen": _unseen,
    "truncation": _truncated,
    "sharpness": _below("sharpness", "min_sharpness"),
    "confidence": _below("confidence", "min_confidence"),
    "identity": _below("identity", "min_identity"),
}


def _without_slivers(one: Followed, clip: Clip, options: Filters) -> Followed:
    """Return the subject with empty frames where it fills less than `min_area` of the picture."""
    track = one.track
    least = (options.min_area or 0.0) * clip.facts.width * clip.facts.height
    seen = [area > 0 and area >= least for area in track.areas]
    if seen == track.present():
        return one
    nothing = mask_text(np.zeros((clip.facts.height, clip.facts.width), bool))
    rows = zip(seen, track.areas, track.boxes, track.masks, strict=True)
    cleaned = [(area, box, mask) if there else (0, None, nothing) for there, area, box, mask in rows]
    areas, boxes, masks = zip(*cleaned, strict=True)
    cleaned_track = Track(areas=areas, boxes=boxes, masks=masks, scores=track.scores)
    size = clip.facts.width, clip.facts.height
    told = {"confidence": confidence(cleaned_track), "truncation": truncation(cleaned_track, size)}
    figures = {name: value for name, value in {**one.figures, **told}.items() if value is not None}
    return replace(one, track=cleaned_track, figures=figures)


def _without_doubles(kept: list[Followed], clip: Clip, most: float | None) -> tuple[list[Followed], list[Dropped]]:
    """Return the subjects of which no surer one has nearly the same masks, and those that went."""
    stay: list[Followed] = []
    doubles = []
    if most is None:
        return kept, []
    for one in sorted(kept, key=_sureness, reverse=True):
        overlap = max((masks_iou(one.track, other.track, clip) for other in stay), default=0.0)
        if overlap > most:
            doubles.append(Dropped(word=one.found.word, filter="overlap", value=round(overlap, 4), threshold=most))
        else:
            stay.append(one)
    return [one for one in kept if one in stay], doubles


def _sureness(one: Followed) -> float:
    return one.found.anchor.score if one.found.likeness is None else one.found.likeness


def masks_iou(one: Track, other: Track, clip: Clip) -> float:
    """Return how much of all pixels of all frames that two tracks cover they cover both; 0 where they cover none."""
    size = [clip.facts.height, clip.facts.width]
    both = either = 0.0
    for first, second, *areas in zip(one.masks, other.masks, one.areas, other.areas, strict=True):
        if all(areas):
            pair = [{"size": size, "counts": counts.encode()} for counts in (first, second)]
            common = float(coco.area(coco.merge(pair, intersect=True)))
        else:
            common = 0.0
        both += common
        either += sum(areas) - common
    return both / either if either else 0.0
