"""Suites: the storyboards that systems are compared on.

    <suite>/
        suite.json          name, version and what it is
        storyboards.jsonl   one entry a line: id, storyboard, and where it came from
        images/             the reference pictures, named by the storyboards

A suite's hash covers its storyboards and the pixels' files; every result carries it, so that numbers of two editions
are never compared.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from alchemint import media
from alchemint.storyboard import Storyboard, StoryboardError, located

SHIPPED = Path(__file__).parent / "suites"
_STORYBOARDS, _ABOUT = "storyboards.jsonl", "suite.json"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class About(BaseModel):
    """What a suite says of itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    version: int = Field(ge=1)
    description: str = ""


@dataclass(frozen=True)
class Entry:
    """A storyboard of a suite; its id names the video files. `source` says where it came from, for who wants to know.

    In `storyboard` the pictures are absolute paths; in `row`, as in the file, they are relative to the suite.
    """

    id: str
    storyboard: Storyboard
    source: dict[str, Any]
    row: dict[str, Any]


@dataclass(frozen=True)
class Suite:
    """Storyboards with their reference pictures."""

    about: About
    entries: tuple[Entry, ...]
    folder: Path

    @cached_property
    def sha256(self) -> str:
        """The hash of the storyboards and of the picture files' bytes, in hexadecimal."""
        digest = hashlib.sha256()
        for entry in self.entries:
            digest.update(json.dumps([entry.id, entry.row["storyboard"]], sort_keys=True).encode())
            for subject in entry.storyboard.subjects:
                for image in subject.images:
                    assert isinstance(image, Path)
                    digest.update(hashlib.sha256(image.read_bytes()).digest())
        return digest.hexdigest()


def names_of_shipped() -> list[str]:
    """Return the names of the suites that the package ships."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{_ABOUT}"))


def load_suite(name_or_folder: str | Path) -> Suite:
    """Load a shipped suite by its name, or any by its folder.

    Raises ValueError with one line for each fault, FileNotFoundError when there is no such suite.
    """
    shipped = SHIPPED / str(name_or_folder)
    folder = shipped if (shipped / _ABOUT).is_file() else Path(name_or_folder)
    if not (folder / _ABOUT).is_file():
        raise FileNotFoundError(f'there is no suite "{name_or_folder}": it is neither a folder with {_ABOUT} nor one '
                                f"of those shipped: {', '.join(names_of_shipped())}")
    try:
        about = About.model_validate_json((folder / _ABOUT).read_text(encoding="utf-8"))
    except ValidationError as error:
        raise ValueError("\n".join(f"{folder / _ABOUT}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}"
                                   for fault in error.errors())) from error
    entries, faults = [], []
    ids: set[str] = set()
    with (folder / _STORYBOARDS).open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                entry = _entry(json.loads(line), folder)
                if entry.id in ids:
                    raise ValueError(f'the id "{entry.id}" is given twice; ids name files, choose another')
                ids.add(entry.id)
                entries.append(entry)
            except (ValueError, TypeError) as error:
                faults += [f"{folder / _STORYBOARDS}, line {number}: {fault}" for fault in str(error).splitlines()]
    if not entries and not faults:
        faults = [f"{folder / _STORYBOARDS}: holds no storyboard"]
    if faults:
        raise ValueError("\n".join(faults))
    return Suite(about, tuple(entries), folder)


def write_suite(folder: Path, about: About, rows: Iterable[dict[str, Any]]) -> Suite:
    """Write the storyboards and the description of a suite whose pictures lie in `folder` already; return it loaded.

    rows: {"id", "storyboard" (pictures relative to `folder`), "source"}.
    """
    media.write_text(folder / _STORYBOARDS, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    media.write_text(folder / _ABOUT, about.model_dump_json(indent=1) + "\n")
    return load_suite(folder)


def _entry(row: Any, folder: Path) -> Entry:
    if not isinstance(row, dict) or not isinstance(row.get("storyboard"), dict):
        raise ValueError('not an entry; write {"id": …, "storyboard": {…}}')
    if unknown := set(row) - {"id", "storyboard", "source"}:
        raise ValueError(f"unknown keys {sorted(unknown)}; allowed are id, storyboard, source")
    name = row.get("id")
    if not isinstance(name, str) or not _ID.fullmatch(name):
        raise ValueError(f"id {name!r}: it names files, so use letters, digits, dots, underscores and hyphens only")
    try:
        storyboard = located(Storyboard(**row["storyboard"]), folder)
    except StoryboardError as error:
        raise ValueError("\n".join(f"{name}: {fault}" for fault in error.faults)) from error
    missing = [image for subject in storyboard.subjects for image in subject.images
               if isinstance(image, Path) and not image.is_file()]
    if missing:
        raise ValueError("\n".join(f"{name}: image {path} does not exist" for path in missing))
    return Entry(name, storyboard, row.get("source") or {}, row)
