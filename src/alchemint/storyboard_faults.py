"""What can be wrong with a storyboard: one line for each fault, naming the field, the value, what is allowed, the mend.

    type_faults     a value of the wrong kind, an unknown key, a missing one, from what pydantic finds
    value_faults    values that no model could use
    model_faults    what this model cannot make
    image_faults    pictures that are missing or cannot be read

All but `type_faults` also take a storyboard of which parts were refused (`StoryboardError.sound_part`), so that one
run tells everything: what is not in a part's `model_fields_set`, or is None, is passed over.
"""

import difflib
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from alchemint import timeline
from alchemint.document import quoted

if TYPE_CHECKING:
    from alchemint.storyboard import Defaults, Event, Storyboard, Subject

MAX_SUBJECTS = 16
MAX_EVENTS = 64

BOUNDS: dict[str, tuple[float, float]] = {
    "duration": (0, 3600),
    "fps": (0, 240),
    "num_frames": (1, 100_000),
    "width": (1, 16_384),
    "height": (1, 16_384),
    "seed": (0, 2**63 - 1),
}
"""Smallest and largest value of each number; a duration and a frame rate of 0 are excluded."""

_FORMS = {
    **dict.fromkeys(("prompt", "negative_prompt", "name", "word", "text"), "text in quotes"),
    **dict.fromkeys(("duration", "fps"), "a plain number such as 4.0"),
    **dict.fromkeys(("num_frames", "width", "height", "seed"), "a whole number"),
    "subjects": "a list of subjects, each with name, word, images and appears",
    "events": "a list of events, each with during and text",
    "images": "a list of image files such as [fox.png]",
    "appears": "a list of intervals in seconds such as [[0.5, 3.0]]",
    "during": "one interval in seconds such as [0.5, 3.0]",
}

_TIMING = ("duration", "num_frames", "fps")
_END_TOLERANCE = 2e-3
"""Frames that an interval may end after the video, as much as `timeline.num_frames_for` forgives a duration."""


def span(interval: tuple[float, float]) -> str:
    """Return an interval as messages show it."""
    return f"[{_number(interval[0])}, {_number(interval[1])}]"


def type_faults(
    error: ValidationError, fields: Mapping[str, Any], models: Mapping[str, type[BaseModel]]
) -> Iterator[str]:
    """Yield in plain words what pydantic found wrong with `fields`.

    `models` are those of the storyboard itself (under "") and of the parts in its lists, by the list's name.
    """
    for detail in error.errors(include_url=False):
        loc, label, values, model = detail["loc"], "", fields, models[""]
        if len(loc) >= 2 and loc[0] in models and isinstance(loc[1], int):
            part = fields[str(loc[0])][loc[1]]
            values, model = part if isinstance(part, Mapping) else {}, models[str(loc[0])]
            label = _label(str(loc[0]), loc[1], values.get("name"))
            loc = loc[2:]
            if not loc:
                yield f"{label} is {quoted(part)}, but must be keys with values: {', '.join(model.model_fields)}"
                continue
            label += ": "
        name = str(loc[0])
        if detail["type"] == "extra_forbidden":
            yield f"{label}unknown key {quoted(name)}; {_mend_of_key(name, detail['input'], model)}"
        elif name not in _FORMS:
            yield f"{label}unknown key {quoted(loc[0])}; remove it"
        elif detail["type"] == "missing" and len(loc) == 1:
            yield f"{label}{name} is missing; give {_FORMS[name]}"
        else:
            yield f"{label}{name} {quoted(values.get(name))} must be {_FORMS[name]}"


def value_faults(storyboard: "Storyboard") -> Iterator[str]:
    """Yield what is wrong with the values, whatever the model."""
    if _is_blank(storyboard, "prompt"):
        yield f"prompt is empty; give {_FORMS['prompt']}"
    yield from _number_faults(storyboard)
    yield from _too_many("subjects", len(storyboard.subjects), MAX_SUBJECTS)
    yield from _too_many("events", len(storyboard.events), MAX_EVENTS)
    names = Counter(subject.name for subject in storyboard.subjects if "name" in subject.model_fields_set)
    for name, count in names.items():
        if count > 1:
            yield f"subject name {quoted(name)} is used {count} times, but must be used once; rename the others"
    for label, part in _parts(storyboard):
        for name in ("name", "word", "text"):
            if _is_blank(part, name):
                yield f"{label}: {name} is empty; give {_FORMS[name]}"
        for name in ("images", "appears"):
            if name in part.model_fields_set and not getattr(part, name):
                yield f"{label}: {name} is empty; give {_FORMS[name]}"
        for name, interval in _intervals(part):
            if fault := _interval_fault(name, interval):
                yield f"{label}: {fault}"


def model_faults(storyboard: "Storyboard", defaults: "Defaults") -> Iterator[str]:
    """Yield what the model that has these `defaults` cannot make."""
    multiple = defaults.size_multiple
    for name in ("width", "height"):
        size = getattr(storyboard, name)
        if size is not None and size >= 1 and size % multiple:
            below, above = size // multiple * multiple, (size // multiple + 1) * multiple
            mend = f"{below} or {above}" if below else f"{above}"
            yield f"{name} {size} must be divisible by {multiple}, as the model needs it; use {mend}"
    count = storyboard.num_frames
    if count is not None and not _is_unusable(storyboard, "num_frames") and not timeline.is_valid_num_frames(count):
        mend = " or ".join(str(near) for near in timeline.nearest_num_frames(count))
        yield f"num_frames {count} must be of the form 4k+1; use {mend}"
    if defaults.max_subjects < MAX_SUBJECTS:
        yield from _too_many("subjects", len(storyboard.subjects), defaults.max_subjects)
    yield from _event_faults(storyboard, defaults)
    if any(_is_unusable(storyboard, name) for name in _TIMING):
        return
    fps = storyboard.fps or defaults.fps
    if storyboard.duration is None:
        num_frames = storyboard.num_frames or defaults.num_frames
    else:
        try:
            num_frames = timeline.num_frames_for(storyboard.duration, fps)
        except ValueError as error:
            yield str(error)
            num_frames = round(storyboard.duration * fps) + 1
    for label, part in _parts(storyboard):
        for name, interval in _intervals(part):
            if not _interval_fault(name, interval) and (fault := _timing_fault(name, interval, fps, num_frames)):
                yield f"{label}: {fault}"


def image_faults(storyboard: "Storyboard") -> Iterator[str]:
    """Yield what is wrong with the subjects' image files; every one of them is decoded."""
    from alchemint.media import open_image  # heavy: PIL and av

    for label, part in _parts(storyboard):
        for image in getattr(part, "images", ()):
            try:
                open_image(image)
            except (OSError, ValueError) as error:
                yield f"{label}: {error}"


def _mend_of_key(key: str, value: object, model: type[BaseModel]) -> str:
    if " " in key and value is None:
        return "a text with a comma in it needs quotes"
    close = difflib.get_close_matches(key, model.model_fields, n=1)
    return f"did you mean {quoted(close[0])}?" if close else f"allowed are {', '.join(model.model_fields)}"


def _label(kind: str, index: int, name: object) -> str:
    number = f"{kind.removesuffix('s')} {index + 1}"
    return f"subject {quoted(name)}" if isinstance(name, str) and name.strip() else number


def _parts(storyboard: "Storyboard") -> Iterator[tuple[str, "Subject | Event"]]:
    for index, subject in enumerate(storyboard.subjects):
        yield _label("subjects", index, getattr(subject, "name", None)), subject
    for index, event in enumerate(storyboard.events):
        yield _label("events", index, None), event


def _intervals(part: "Subject | Event") -> Iterator[tuple[str, tuple[float, float]]]:
    """Yield the field and the value of each interval of a subject or an event."""
    for interval in getattr(part, "appears", ()):
        yield "appears", interval
    if hasattr(part, "during"):
        yield "during", part.during


def _interval_fault(name: str, interval: tuple[float, float]) -> str | None:
    start, end = interval
    if not (math.isfinite(start) and math.isfinite(end)):
        return f"{name} {span(interval)} is not finite; give both ends in plain seconds"
    if start < 0:
        return f"{name} {span(interval)} starts before 0.0 s; raise its start to 0.0 or more"
    if start == end:
        return f"{name} {span(interval)} is empty; its end must be after its start"
    if start > end:
        return f"{name} {span(interval)} is reversed; write {span((end, start))}"
    return None


def _timing_fault(name: str, interval: tuple[float, float], fps: float, num_frames: int) -> str | None:
    # A video of one frame has no duration; it counts as shown for one frame's time.
    video_end = max(timeline.duration_s(num_frames, fps), 1 / fps if num_frames == 1 else 0.0)
    mend = "shorten it or raise duration"
    if interval[0] >= video_end:
        return f"{name} {span(interval)} lies after the video's end {_number(video_end)} s; move it or raise duration"
    if (interval[1] - video_end) * fps > _END_TOLERANCE:
        return f"end {_number(interval[1])} s is after the video's end {_number(video_end)} s; {mend}"
    if timeline.frames_in(interval, fps, num_frames) is None:
        return (f"{name} {span(interval)} holds no frame at {fps:g} fps; "
                f"make it at least {_number(1 / fps)} s long")
    return None


def _event_faults(storyboard: "Storyboard", defaults: "Defaults") -> Iterator[str]:
    if not defaults.takes_events and storyboard.events:
        yield f"events: {len(storyboard.events)} are given, but this model takes none; remove them"
    elif not defaults.events_may_overlap:
        timed = [(number, event.during) for number, event in enumerate(storyboard.events, start=1)
                 if "during" in event.model_fields_set]
        for (first, during), (second, other) in combinations(sorted(timed, key=lambda row: tuple(row[1])), 2):
            if other[0] < during[1]:
                yield (f"event {second}: during {span(other)} overlaps event {first}, {span(during)}, but this model's "
                       "events may not overlap; shorten one")


def _number_faults(storyboard: "Storyboard") -> Iterator[str]:
    if storyboard.duration is not None and storyboard.num_frames is not None:
        yield (f"duration {_number(storyboard.duration)} and num_frames {storyboard.num_frames} are both given, "
               "but each decides the other; remove one of them")
    for name, (low, high) in BOUNDS.items():
        value = getattr(storyboard, name)
        if value is not None and _is_out_of_bounds(name, value):
            limits = f"above 0 and at most {high}" if low == 0 and name != "seed" else f"within {low} .. {high}"
            yield f"{name} {quoted(value)} must be {limits}; change it or leave it out"


def _is_out_of_bounds(name: str, value: float) -> bool:
    low, high = BOUNDS[name]
    return not low <= value <= high or (value == 0 and name != "seed")


def _is_unusable(storyboard: "Storyboard", name: str) -> bool:
    """Tell whether a number was given, but refused or out of its bounds."""
    value = getattr(storyboard, name)
    return name in storyboard.model_fields_set if value is None else _is_out_of_bounds(name, value)


def _is_blank(part: BaseModel, name: str) -> bool:
    value = getattr(part, name, None) if name in part.model_fields_set else None
    return isinstance(value, str) and not value.strip()


def _too_many(name: str, count: int, limit: int) -> Iterator[str]:
    if count > limit:
        yield f"{name}: {count} are given, but at most {limit} are allowed; remove {count - limit}"


def _number(value: float) -> str:
    digits = f"{value:.10g}"
    return digits if set(digits) & set(".en") else f"{digits}.0"
