"""Which video files are to be annotated, and what has been said of them: a captions file, or a text beside each."""

import json
import math
import posixpath
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from alchemint import storage
from alchemint.annotate.clip import Given, Source
from alchemint.document import quoted
from alchemint.recipe_file import fault_lines
from alchemint.records import TimedCaption

VIDEO_SUFFIXES = (".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv",
                  ".ts", ".webm", ".wmv")

_MOST_FAULTS = 20

_NUM_READERS = 16
"""Texts beside videos that are read at once: from an object store most of the time is waiting."""


def _interval(during: tuple[float, float]) -> tuple[float, float]:
    if not 0 <= during[0] < during[1]:
        raise ValueError(f"{list(during)} is no interval; give [start, end] in seconds with 0 <= start < end")
    return during


def _some_text(text: str) -> str:
    if not text.strip():
        raise ValueError("it is empty; write something or leave the line out")
    return text.strip()


_Seconds = Annotated[float, Field(strict=True, allow_inf_nan=False)]
_During = Annotated[tuple[_Seconds, _Seconds], AfterValidator(_interval)]
_Text = Annotated[str, AfterValidator(_some_text)]


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Event(_Row):
    during: _During
    text: _Text


class _Line(_Row):
    """A line of a captions file."""

    video: str
    caption: _Text
    events: tuple[_Event, ...] = ()
    during: _During | None = None

    @model_validator(mode="after")
    def _events_lie_within(self) -> "_Line":
        length = self.during[1] - self.during[0] if self.during else math.inf
        for event in self.events:
            if event.during[1] > length + 1e-6:
                raise ValueError(f"the event {list(event.during)} ends after the part that is captioned, which lasts "
                                 f"{length:g} s; times of events count from the part's beginning")
        return self

    def given(self) -> Given:
        events = tuple(TimedCaption(during=event.during, text=event.text) for event in self.events)
        return Given(self.caption, events, self.during)


def find_sources(folder: storage.Address, captions: storage.Address | None = None) -> list[Source]:
    """Return the video files (by their suffixes) below a folder or prefix, sorted by name, with their captions.

    captions: a JSONL file with a line for a video, or for each of several parts of a video:
    {"video": "folder/name.mp4", "caption": "…", "events": [{"during": [0, 2.5], "text": "…"}], "during": [10, 20]}.
    `events` and `during` may be missing; all times are seconds, those of events from the part's beginning. Without a
    captions file the text of "name.txt" beside "name.mp4" is its caption, where there is one.
    Hidden files and folders are passed over.

    Raises ValueError for a folder without videos, and with all faults of a captions file, twenty of them shown.
    """
    try:
        names = storage.file_names(folder, deep=True)
    except FileNotFoundError as error:
        raise ValueError(str(error)) from error
    videos = [name for name in names if posixpath.splitext(name)[1].lower() in VIDEO_SUFFIXES]
    if not videos:
        raise ValueError(f"{folder} holds no video; files with these suffixes are taken: {', '.join(VIDEO_SUFFIXES)}")
    if strange := [name for name in videos if not _is_text(name)]:
        raise ValueError(f"{folder}: names of {len(strange)} videos, as {strange[0]!r}, are no UTF-8; rename them")
    # A worker on the same machine may have another working directory.
    root = folder if storage.is_url(folder) else Path(folder).absolute()
    given = _texts_beside(root, videos, set(names)) if captions is None else _captions(captions, set(videos))
    return [Source(name, storage.join(root, name), tuple(given.get(name, ()))) for name in videos]


def _texts_beside(root: storage.Address, videos: list[str], names: set[str]) -> dict[str, list[Given]]:
    beside = {video: f"{posixpath.splitext(video)[0]}.txt" for video in videos}
    beside = {video: name for video, name in beside.items() if name in names}

    def read(name: str) -> str:
        try:
            return storage.read_bytes(storage.join(root, name)).decode("utf-8-sig").strip()
        except UnicodeDecodeError as error:
            raise ValueError(f"{storage.join(root, name)} is not UTF-8 text; save it as UTF-8") from error

    with ThreadPoolExecutor(_NUM_READERS) as readers:
        return {video: [Given(text)] for video, text in zip(beside, readers.map(read, beside.values()), strict=True)
                if text}


def _captions(address: storage.Address, videos: set[str]) -> dict[str, list[Given]]:
    given: dict[str, list[Given]] = defaultdict(list)
    places: dict[str, dict[tuple[float, float] | None, int]] = defaultdict(dict)
    faults: list[str] = []
    for number, text in enumerate(_text(address).split("\n"), start=1):
        if not text.strip():
            continue
        label = f"line {number}"
        try:
            line = _Line.model_validate(json.loads(text))
        except json.JSONDecodeError as error:
            faults.append(f"{label}: {error.msg} at column {error.colno}; correct the JSON there")
            continue
        except RecursionError:
            faults.append(f"{label}: it is nested too deeply; write a caption as described")
            continue
        except ValidationError as error:
            faults += fault_lines(label, error).splitlines()
            continue
        video = posixpath.normpath(line.video)
        fault = _fault_among(video, line.during, videos, places[video])
        if fault:
            faults.append(f"{label}: {fault}")
        else:
            places[video][line.during] = number
            given[video].append(line.given())
    if faults:
        more = [f"and {len(faults) - _MOST_FAULTS} more"] if len(faults) > _MOST_FAULTS else []
        raise ValueError("\n".join(f"{address}: {fault}" for fault in faults[:_MOST_FAULTS] + more))
    return given


def _fault_among(video: str, during: tuple[float, float] | None, videos: set[str],
                 places: dict[tuple[float, float] | None, int]) -> str:
    """Return what is wrong with a line's video and part; `places` are the parts and lines of that video until now."""
    if video not in videos:
        return f"there is no video {quoted(video)} in the folder; give its path within it"
    if during in places:
        part = "this part" if during else "the whole"
        return f"{part} of {quoted(video)} has a caption already, in line {places[during]}; remove one"
    if places and (during is None) != (None in places):
        return (f"{quoted(video)} has captions of parts and one of the whole, see line {min(places.values())}; "
                "give one kind")
    return ""


def _text(address: storage.Address) -> str:
    try:
        return storage.read_bytes(address).decode("utf-8-sig")
    except FileNotFoundError as error:
        raise ValueError(f"{address}: there is no such captions file; correct its path") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{address} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
