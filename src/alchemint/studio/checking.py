"""Storyboards from a browser: bounded before anything looks at them, then checked by the storyboard's own model.

Their images are ids of uploaded pictures, never paths.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alchemint import timeline
from alchemint.document import quoted
from alchemint.storyboard import Storyboard, StoryboardError
from alchemint.storyboard_faults import MAX_EVENTS, MAX_SUBJECTS, model_faults
from alchemint.studio.pictures import PictureStore
from alchemint.studio.settings import Limits, StudioModel

_NAMES = ("name", "word")


@dataclass(frozen=True)
class Checked:
    """A checked storyboard: its faults, or the resolved storyboard with its images as files; and what may be meant
    otherwise."""

    faults: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    storyboard: Storyboard | None = None


def check(document: Mapping[str, Any], model: StudioModel, limits: Limits, pictures: PictureStore) -> Checked:
    """Check a storyboard whose images are picture ids against the model and the limits, all faults at once."""
    if faults := tuple(bound_faults(document, limits)):
        return Checked(faults)
    faults = ()
    try:
        board = Storyboard(**document)
    except StoryboardError as error:
        assert error.sound_part is not None
        faults, board = error.faults, error.sound_part
    faults += tuple(picture_faults(board, pictures))
    warnings: tuple[str, ...] = () if faults else tuple(board.warnings())
    if faults := (*faults, *model_faults(board, model.defaults)):
        return Checked(tuple(dict.fromkeys(faults)), warnings)
    resolved = board.resolve(model.defaults)
    if faults := tuple(_size_faults(resolved, model, limits)):
        return Checked(faults, warnings)
    return Checked((), warnings, with_images(resolved, {
        image.name: pictures.path(image.name) for subject in resolved.subjects for image in _paths(subject.images)}))


def bound_faults(document: Mapping[str, Any], limits: Limits) -> Iterator[str]:
    """Yield where a document holds more than is taken, and texts that cannot be written to a file.

    What is of the wrong kind is passed over: the storyboard's model tells of it.
    """
    subjects, events = (_rows(document.get(name)) for name in ("subjects", "events"))
    for name, rows, most in (("subjects", subjects, MAX_SUBJECTS), ("events", events, MAX_EVENTS)):
        if len(rows) > most:
            yield f"{name}: {len(rows)} are given, but at most {most} are allowed; remove {len(rows) - most}"
    if len(subjects) > MAX_SUBJECTS or len(events) > MAX_EVENTS:
        return
    for name in ("prompt", "negative_prompt"):
        yield from _text_faults(name, document.get(name), limits.text_length)
    references = 0
    for number, row in enumerate(subjects, 1):
        values = row if isinstance(row, Mapping) else {}
        for name in _NAMES:
            yield from _text_faults(f"subject {number}: {name}", values.get(name), limits.name_length)
        label = _label(number, values.get("name"))
        counts = {name: len(_rows(values.get(name))) for name in ("images", "appears")}
        for name, most in (("images", limits.pictures), ("appears", limits.intervals)):
            if counts[name] > most:
                yield (f"{label}: {name} has {counts[name]} entries, but at most {most} are allowed; "
                       f"remove {counts[name] - most}")
        references += counts["images"] * counts["appears"]
    if references > limits.references:
        yield (f"subjects: their pictures times their intervals are {references}, but at most {limits.references} are "
               "allowed; remove some")
    for number, row in enumerate(events, 1):
        values = row if isinstance(row, Mapping) else {}
        yield from _text_faults(f"event {number}: text", values.get("text"), limits.text_length)


def picture_faults(board: Storyboard, pictures: PictureStore) -> Iterator[str]:
    """Yield the images that are no uploaded pictures."""
    for number, subject in enumerate(board.subjects, 1):
        label = _label(number, getattr(subject, "name", None))
        for image in _paths(getattr(subject, "images", None) or ()):
            if len(image.parts) != 1 or pictures.path(image.name) is None:
                yield f"{label}: image {quoted(image.as_posix())} is no uploaded picture; upload it"


def with_images(board: Storyboard, files: Mapping[str, Path | None]) -> Storyboard:
    """Return the storyboard with each image replaced by the one that `files` has under its file name."""
    subjects = [subject.model_copy(update={
        "images": tuple(files[image.name] for image in _paths(subject.images))}) for subject in board.subjects]
    return board.model_copy(update={"subjects": tuple(subjects)})


def image_names(board: Storyboard) -> list[str]:
    """Return the file names of all images, each once, in their order."""
    return list(dict.fromkeys(image.name for subject in board.subjects for image in _paths(subject.images)))


def with_ids(board: Storyboard) -> dict[str, Any]:
    """Return the storyboard as a document whose images are picture ids again."""
    plain = with_images(board, {name: Path(name) for name in image_names(board)})
    return plain.model_dump(mode="json", exclude_none=True)


def spans(board: Storyboard) -> dict[str, list[timeline.LatentSpan]]:
    """Return by subject name where its intervals lie on the latent axis."""
    assert board.fps and board.num_frames, "resolve the storyboard first"
    return {subject.name: [timeline.latent_span_of(interval, board.fps, board.num_frames)
                           for interval in subject.appears] for subject in board.subjects}


def _size_faults(board: Storyboard, model: StudioModel, limits: Limits) -> Iterator[str]:
    assert board.fps and board.num_frames and board.width and board.height, "resolve the storyboard first"
    seconds = timeline.duration_s(board.num_frames, board.fps)
    if seconds > limits.max_duration_s + 1e-6:
        yield f"duration {seconds:g} s is too long, this studio makes at most {limits.max_duration_s:g} s; shorten it"
    defaults = model.defaults
    most = math.floor(max(limits.max_duration_s * defaults.fps + 1, defaults.num_frames) + 1e-6)
    if board.num_frames > most:
        yield (f"num_frames {board.num_frames} (at {board.fps:g} fps) are too many, this studio makes at most {most}; "
               "shorten the video or lower fps")
    area = limits.area_factor * defaults.width * defaults.height
    if board.width * board.height > area:
        yield (f"width {board.width} x height {board.height} is too large, this studio makes at most {area:.0f} pixels "
               f"(the model's own is {defaults.width} x {defaults.height}); lower one of them")


def _text_faults(label: str, value: object, most: int) -> Iterator[str]:
    if not isinstance(value, str):
        return
    if len(value) > most:
        yield f"{label} has {len(value)} characters, but at most {most} are allowed; shorten it"
    if any("\ud800" <= character <= "\udfff" for character in value):
        yield f"{label} has half a character (a lone surrogate), which no file can hold; write it anew"
    if any(character < " " and character not in "\n\r\t" for character in value):
        yield f"{label} has a control character; write it anew"


def _label(number: int, name: object) -> str:
    return f"subject {quoted(name)}" if isinstance(name, str) and name.strip() else f"subject {number}"


def _rows(value: object) -> list[Any] | tuple[Any, ...]:
    return value if isinstance(value, list | tuple) else ()


def _paths(images: Any) -> list[Path]:
    """Return images as paths; a storyboard of which parts were refused has them as text."""
    return [Path(image) for image in images if isinstance(image, str | Path)]
