"""A storyboard with its pictures as one zip file, which `alchemint generate` takes when it is unpacked.

A zip from elsewhere is read in memory, file by file: nothing is unpacked, and names are only looked up, never opened.
"""

import posixpath
import re
import stat
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from alchemint.document import parse_document, quoted
from alchemint.storyboard import Storyboard, StoryboardError
from alchemint.studio.checking import bound_faults
from alchemint.studio.incoming import size_of
from alchemint.studio.pictures import Picture, PictureStore
from alchemint.studio.refusal import RefusalError
from alchemint.studio.settings import Limits

STORYBOARD = "storyboard.yaml"
_KINDS = (".yaml", ".yml", ".json")
_ALWAYS_PLAUSIBLE = 2**20
_TABLE_ENTRY = b"PK\x01\x02"
_SPARE_ENTRIES = 4
"""A picture may hold a zip of its own by chance."""
"""Bytes up to which any compression is believed: a plain grey picture shrinks a lot."""


def export_bundle(document: Mapping[str, Any], board: Storyboard) -> bytes:
    """Return a zip of the storyboard and its pictures, which are called after their subjects.

    document: the storyboard as its maker has written it. board: the same, checked, with its images as files.
    """
    names: dict[Path, str] = {}
    counts: Counter[str] = Counter()
    for number, subject in enumerate(board.subjects, 1):
        stem = re.sub(r"[^a-z0-9]+", "-", subject.name.lower()).strip("-")[:40] or f"subject-{number}"
        for image in subject.images:
            assert isinstance(image, Path), image
            if image not in names:
                counts[stem] += 1
                names[image] = f"pictures/{stem}-{counts[stem]}.png"
    subjects = [{**dict(row), "images": [names[image] for image in subject.images if isinstance(image, Path)]}
                for row, subject in zip(document.get("subjects") or (), board.subjects, strict=True)]
    written = {key: value for key, value in {**document, "subjects": subjects}.items() if value is not None}
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        text = yaml.safe_dump(written, allow_unicode=True, sort_keys=False, default_flow_style=None, width=120)
        file.writestr(_entry(STORYBOARD, zipfile.ZIP_DEFLATED), text.encode())
        for image, name in names.items():
            file.writestr(_entry(name, zipfile.ZIP_STORED), image.read_bytes())
    return packed.getvalue()


def import_bundle(content: bytes, suffix: str, limits: Limits, pictures: PictureStore
                  ) -> tuple[dict[str, Any], list[Picture]]:
    """Return the storyboard of a zip, or of a YAML or JSON file alone, with picture ids as images; and the pictures.

    suffix: tells YAML from JSON where it is no zip. Raises RefusalError with all faults: of the zip, the storyboard,
    the pictures. A storyboard that this model cannot make is taken all the same, so that it can be changed on the page.
    """
    if not content.startswith(b"PK"):
        return _taken(content, PurePosixPath("storyboard" + suffix), {}, limits, pictures)
    # Before its table is read, which takes far more memory than the table itself.
    if content.count(_TABLE_ENTRY) > _SPARE_ENTRIES * limits.bundle_files:
        raise RefusalError(413, f"the zip holds far more than the {limits.bundle_files} files that are taken; leave "
                                "only the storyboard and its pictures in it")
    try:
        with zipfile.ZipFile(BytesIO(content)) as file:
            entries = _entries(file, limits)
            name = _storyboard_name(entries)
            text = _read(file, entries[name], limits.document_bytes)
            unread = {entry: (file, info) for entry, info in entries.items() if entry != name}
            return _taken(text, PurePosixPath(name), unread, limits, pictures)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, ValueError, RuntimeError) as error:
        raise RefusalError(400, f"the zip cannot be read ({str(error)[:200]}); pack it anew") from error
    except zlib.error as error:
        raise RefusalError(400, f"the zip is damaged ({error}); pack it anew") from error


def _entry(name: str, compression: int) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)  # of 1980: the same storyboard makes the same zip
    entry.compress_type, entry.external_attr = compression, 0o644 << 16
    return entry


def _entries(file: zipfile.ZipFile, limits: Limits) -> dict[str, zipfile.ZipInfo]:
    """Return the files of a zip by name, once all of its table was found harmless."""
    table = file.infolist()
    if len(table) > limits.bundle_files:
        raise RefusalError(413, f"the zip holds {len(table)} files, but at most {limits.bundle_files} are taken; leave "
                                "only the storyboard and its pictures in it")
    total = sum(info.file_size for info in table)
    if total > limits.unpacked_bytes:
        raise RefusalError(413, f"the zip holds {size_of(total)} unpacked, but at most "
                                f"{size_of(limits.unpacked_bytes)} are taken; leave only the storyboard and its "
                                "pictures in it")
    faults, entries = [], {}
    for info in table:
        name, label = info.filename, f"file {quoted(info.filename)} of the zip"
        parts = name.replace("\\", "/").split("/")
        if name.startswith(("/", "\\")) or ".." in parts or ":" in parts[0] or "\0" in info.orig_filename:
            faults.append(f"{label} lies outside of it; pack it with plain names")
        elif stat.S_ISLNK(info.external_attr >> 16):
            faults.append(f"{label} is a link; put the file itself there")
        elif info.flag_bits & 1:
            faults.append(f"{label} is encrypted; pack it without a password")
        elif info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            faults.append(f"{label} is packed in a way that is not taken; pack it as usual (deflate)")
        elif info.file_size > max(_ALWAYS_PLAUSIBLE, limits.compression * info.compress_size):
            faults.append(f"{label} grows from {info.compress_size} to {info.file_size} bytes, more than "
                          f"{limits.compression} times; pack a real one")
        elif not info.is_dir():
            entries[name] = info
    if faults:
        raise RefusalError(400, *faults[:20])
    return entries


def _storyboard_name(entries: Mapping[str, zipfile.ZipInfo]) -> str:
    """Return the name of the storyboard's file: the one nearest to the top, storyboard.yaml before others."""
    found = [name for name in entries if PurePosixPath(name).suffix.lower() in _KINDS
             and not any(part.startswith((".", "__")) for part in name.split("/"))]
    if not found:
        raise RefusalError(400, f"the zip holds no storyboard; put {STORYBOARD} and the pictures into it")
    top = min(name.count("/") for name in found)
    found = [name for name in found if name.count("/") == top]
    named = [name for name in found if PurePosixPath(name).stem == "storyboard"]
    if len(named or found) > 1:
        raise RefusalError(400, f"the zip holds several storyboards ({', '.join(sorted(named or found)[:4])}); "
                                f"leave one, or call it {STORYBOARD}")
    return (named or found)[0]


def _read(file: zipfile.ZipFile, info: zipfile.ZipInfo, most: int) -> bytes:
    if info.file_size > most:
        raise RefusalError(413, f"file {quoted(info.filename)} of the zip has {size_of(info.file_size)}, but at most "
                                f"{size_of(most)} are taken; make it smaller")
    with file.open(info) as part:
        return part.read(most + 1)[:most]


def _taken(text: bytes, name: PurePosixPath, files: Mapping[str, tuple[zipfile.ZipFile, zipfile.ZipInfo]],
           limits: Limits, pictures: PictureStore) -> tuple[dict[str, Any], list[Picture]]:
    if len(text) > limits.document_bytes:
        raise RefusalError(413, f"the storyboard has {size_of(len(text))}, but at most "
                                f"{size_of(limits.document_bytes)} are taken; shorten it")
    try:
        document, faults = parse_document(text, name)
    except ValueError as error:
        raise RefusalError(400, str(error)) from error
    if "storyboard" in document and isinstance(document["storyboard"], dict):
        document = document["storyboard"]  # the record beside a video
    if faults := [*faults, *bound_faults(document, limits)]:
        raise RefusalError(400, *faults)
    try:
        board = Storyboard(**document)
    except StoryboardError as error:
        raise RefusalError(400, *error.faults) from error

    stored: dict[str, Picture] = {}
    rows = []
    for subject in board.subjects:
        images = []
        for image in subject.images:
            assert isinstance(image, Path), image
            place = posixpath.normpath(posixpath.join(name.parent.as_posix(), image.as_posix()))
            label = f"subject {quoted(subject.name)}: image {quoted(image.as_posix())}"
            try:
                if place not in stored:
                    stored[place] = _picture(place, image, files, limits, pictures)
                images.append(stored[place].id)
            except RefusalError as refused:
                faults += [f"{label}: {fault}" for fault in refused.faults]
        rows.append({**subject.model_dump(mode="json", exclude_unset=True), "images": images})
    if faults:
        raise RefusalError(400, *faults)
    plain = board.model_dump(mode="json", exclude_unset=True, exclude_none=True)
    return {**plain, "subjects": rows}, list(stored.values())


def _picture(place: str, image: Path, files: Mapping[str, tuple[zipfile.ZipFile, zipfile.ZipInfo]], limits: Limits,
             pictures: PictureStore) -> Picture:
    if place in files:
        return pictures.add(_read(*files[place], limits.picture_bytes))
    if len(image.parts) == 1 and pictures.path(image.name) is not None:
        return pictures.facts(image.name)
    raise RefusalError(400, "it is not in the file; give a zip that holds the storyboard and its pictures")
