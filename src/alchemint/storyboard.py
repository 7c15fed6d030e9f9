"""What the user writes: a prompt, subjects with their pictures and intervals, timed captions.

A `Storyboard` checks itself when it is made. What depends on a model (its frame rate, the sizes it can make) is filled
in and checked by `Storyboard.resolve`. `load_storyboard` reads a YAML or JSON file and reports all of its faults at
once, those of the pictures too; the faults are found and worded in storyboard_faults.py. Intervals are in seconds and
half-open, [start, end); the last frame belongs to one that ends with the video.
"""

import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    StrictFloat,
    StrictInt,
    ValidationError,
    WithJsonSchema,
)

from alchemint import timeline
from alchemint.document import quoted, read_document
from alchemint.storyboard_faults import (
    BOUNDS,
    MAX_EVENTS,
    MAX_SUBJECTS,
    image_faults,
    model_faults,
    span,
    type_faults,
    value_faults,
)


class StoryboardError(ValueError):
    """All that is wrong with a storyboard, one line for each fault in `faults`.

    `sound_part` is the storyboard without the values whose type was wrong, so that the rest can be checked further.
    """

    def __init__(self, faults: Iterable[str], sound_part: "Storyboard | None" = None) -> None:
        self.faults = tuple(dict.fromkeys(faults))
        self.sound_part = sound_part
        super().__init__("\n".join(self.faults))


@dataclass(frozen=True)
class Defaults:
    """What a model makes unless the storyboard says otherwise, and what it can make at all."""

    fps: float
    width: int
    height: int
    num_frames: int
    size_multiple: int
    max_subjects: int = MAX_SUBJECTS
    takes_events: bool = True
    events_may_overlap: bool = True


def _picture(value: object) -> object:
    if isinstance(value, str | os.PathLike):
        return Path(value)
    # Who has a PIL image has imported PIL; who writes YAML need not wait for that import.
    pillow = sys.modules.get("PIL.Image")
    if pillow is not None and isinstance(value, pillow.Image):
        return value
    raise ValueError("neither a path nor a PIL image")


def _picture_name(value: object) -> str:
    return value.as_posix() if isinstance(value, Path) else f"<picture of {getattr(value, 'size', 'unknown')} pixels>"


if TYPE_CHECKING:
    from PIL import Image

    Picture = Path | Image.Image
else:
    Picture = Annotated[
        Any,
        PlainValidator(_picture),
        PlainSerializer(_picture_name, when_used="json"),
        WithJsonSchema({"type": "string"}),
    ]

Interval = tuple[StrictFloat, StrictFloat]
Text = Annotated[str, Field(json_schema_extra={"minLength": 1})]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Subject(_Part):
    """Somebody or something that is on screen at given times and looks like its pictures."""

    name: Text = Field(description="Names the subject in messages and charts; no two subjects share one.")
    word: Text = Field(description="The word or phrase that names the subject in the prompt.")
    images: tuple[Picture, ...] = Field(
        description="One or more views, relative to the storyboard's folder; an image with alpha is cut out by it.",
        json_schema_extra={"minItems": 1},
    )
    appears: tuple[Interval, ...] = Field(
        description="One or more intervals [start, end] in seconds; they may overlap those of other subjects.",
        json_schema_extra={"minItems": 1},
    )


class Event(_Part):
    """A caption of a part of the video."""

    during: Interval = Field(description="The interval [start, end] in seconds.")
    text: Text = Field(description="What happens in it.")


class Storyboard(_Part):
    """A video to be made. Raises StoryboardError with all faults that can be told without knowing the model."""

    prompt: Text = Field(description="What the whole video shows.")
    negative_prompt: str = Field("", description="What it must not look like.")
    duration: StrictFloat | None = Field(
        None,
        description="Seconds from the first frame to the last; give this or num_frames, or neither.",
        json_schema_extra={"exclusiveMinimum": 0},
    )
    num_frames: StrictInt | None = Field(
        None, description="Number of frames, of the form 4k+1.", json_schema_extra={"minimum": 1}
    )
    fps: StrictFloat | None = Field(None, description="Frames per second.", json_schema_extra={"exclusiveMinimum": 0})
    width: StrictInt | None = Field(None, description="In pixels.", json_schema_extra={"minimum": 1})
    height: StrictInt | None = Field(None, description="In pixels.", json_schema_extra={"minimum": 1})
    seed: StrictInt | None = Field(
        None,
        description="Of the noise; when left out, one is drawn and recorded.",
        json_schema_extra={"minimum": 0, "maximum": BOUNDS["seed"][1]},
    )
    subjects: tuple[Subject, ...] = Field(
        (), description="None at all is plain text to video.", json_schema_extra={"maxItems": MAX_SUBJECTS}
    )
    events: tuple[Event, ...] = Field((), description="Timed captions.", json_schema_extra={"maxItems": MAX_EVENTS})

    def __init__(self, /, **fields: Any) -> None:
        # A key that is written without a value, as in "seed:", is as good as left out.
        fields = {key: value for key, value in fields.items() if value is not None}
        try:
            super().__init__(**fields)
        except ValidationError as error:
            sound_part = _sound_part(fields, error)
            models: dict[str, type[BaseModel]] = {"": Storyboard, "subjects": Subject, "events": Event}
            faults = [*type_faults(error, fields, models), *value_faults(sound_part)]
            raise StoryboardError(faults, sound_part) from None
        if faults := list(value_faults(self)):
            raise StoryboardError(faults, self)

    def resolve(self, defaults: Defaults) -> "Storyboard":
        """Return the storyboard with fps, width, height and num_frames filled in, and its events in order of time.

        `duration` becomes None, as num_frames says the same. Raises StoryboardError with all that the model cannot
        make: a size, a number of frames, events, intervals after the video's end or too short to hold a frame.
        """
        if faults := list(model_faults(self, defaults)):
            raise StoryboardError(faults, self)
        fps = self.fps or defaults.fps
        num_frames = self.num_frames or defaults.num_frames
        if self.duration is not None:
            num_frames = timeline.num_frames_for(self.duration, fps)
        return self.model_copy(update={
            "fps": fps,
            "width": self.width or defaults.width,
            "height": self.height or defaults.height,
            "num_frames": num_frames,
            "duration": None,
            "events": tuple(sorted(self.events, key=lambda event: event.during)),
        })

    def warnings(self) -> list[str]:
        """Return one line for everything that is allowed but hardly meant."""
        found = []
        for subject in self.subjects:
            label = f"subject {quoted(subject.name)}"
            if not _has_phrase(self.prompt, subject.word):
                found.append(f"{label}: the prompt does not have the word {quoted(subject.word)}; "
                             "name the subject in the prompt by this very word")
            for first, second in combinations(sorted(subject.appears), 2):
                if second[0] < first[1]:
                    found.append(f"{label}: appears {span(first)} and {span(second)} overlap; "
                                 f"join them to {span((first[0], max(first[1], second[1])))}")
        return found

    def overlapping_events(self) -> list[tuple[Event, Event]]:
        """Return the pairs of events that overlap in time, the earlier one first."""
        ordered = sorted(self.events, key=lambda event: event.during)
        return [(first, second) for first, second in combinations(ordered, 2) if second.during[0] < first.during[1]]


def load_storyboard(path: str | Path, defaults: Defaults | None = None) -> Storyboard:
    """Read a storyboard from a YAML or JSON file and check all of it, pictures included.

    Image paths are taken relative to the file's folder. With `defaults` the storyboard is resolved, too.
    Raises StoryboardError with all faults of the file, OSError when the file cannot be read.
    """
    path = Path(path)
    try:
        document, faults = read_document(path)
    except ValueError as error:
        raise StoryboardError([str(error)]) from error
    try:
        storyboard = Storyboard(**document)
    except StoryboardError as error:
        assert error.sound_part is not None
        faults += error.faults
        storyboard = error.sound_part
    storyboard = located(storyboard, path.parent)
    faults += image_faults(storyboard)
    if defaults is not None:
        faults += model_faults(storyboard, defaults)
    if faults:
        raise StoryboardError(faults, storyboard)
    return storyboard if defaults is None else storyboard.resolve(defaults)


def located(storyboard: Storyboard, folder: Path) -> Storyboard:
    """Return the storyboard with its image paths taken relative to `folder`."""
    subjects = [
        subject.model_copy(update={
            "images": tuple(folder / image if isinstance(image, str | Path) else image for image in subject.images)
        }) if "images" in subject.model_fields_set else subject
        for subject in storyboard.subjects
    ]
    return storyboard.model_copy(update={"subjects": tuple(subjects)} if subjects else {})


def _sound_part(fields: Mapping[str, Any], error: ValidationError) -> Storyboard:
    """Return the storyboard without the values that `error` refuses.

    A field of it that was given but is None (so in `model_fields_set`) is one that was refused.
    """
    refused = {detail["loc"] for detail in error.errors(include_url=False)}

    def sound(values: Mapping[str, Any], model: type[BaseModel], *place: int | str) -> dict[str, Any]:
        bad = {loc[len(place)] for loc in refused if loc[:len(place)] == place and len(loc) > len(place)}
        return {key: value for key, value in values.items() if key in model.model_fields and key not in bad}

    def parts(name: str, model: type[BaseModel]) -> tuple[Any, ...]:
        rows = fields.get(name, ())
        if not isinstance(rows, list | tuple):
            return ()
        return tuple(
            model.model_construct(**sound(row, model, name, number)) if isinstance(row, Mapping) else row
            for number, row in enumerate(rows) if isinstance(row, Mapping | model)
        )

    values = sound(fields, Storyboard) | {"subjects": parts("subjects", Subject), "events": parts("events", Event)}
    return Storyboard.model_construct(_fields_set=set(fields), **values)


def _has_phrase(prompt: str, phrase: str) -> bool:
    """Tell whether `prompt` has the whole phrase, whatever its case and spacing; a plural s is overlooked."""
    words = r"\s+".join(re.escape(word) for word in phrase.split())
    return re.search(rf"(?<!\w){words}(?:e?s)?(?!\w)", prompt, re.IGNORECASE) is not None
