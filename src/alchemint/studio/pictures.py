"""Uploaded pictures: checked, encoded anew and kept under the hash of their bytes; no name from a browser is a path."""

import hashlib
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image

from alchemint.media import open_image
from alchemint.storage import write_bytes
from alchemint.studio.incoming import size_of
from alchemint.studio.refusal import RefusalError
from alchemint.studio.settings import Limits

_ID = re.compile(r"[0-9a-f]{64}\.png")
_KEPT_S = 3600.0
"""For which an unused picture is kept at least."""


@dataclass(frozen=True)
class Picture:
    """A stored picture; `reduced_from` is the size it was given in, where it was too large."""

    id: str
    width: int
    height: int
    reduced_from: tuple[int, int] | None = None


class PictureStore:
    """A folder of pictures. When it is full, those go that were not used for the longest time.

    Jobs have copies of theirs, from which a picture comes back when it is asked for again.
    """

    def __init__(self, folder: Path, limits: Limits) -> None:
        self._folder = folder
        self._pictures = folder / "pictures"
        self._limits = limits
        # One at a time: a picture of 64 megapixels takes some 700 MB while it is decoded and encoded.
        self._decoding = threading.Lock()
        self._pictures.mkdir(parents=True, exist_ok=True)

    def add(self, content: bytes) -> Picture:
        """Store an image file; RefusalError (400 or 413) when it is none, is too large, or the store is full."""
        if len(content) > self._limits.picture_bytes:
            raise RefusalError(413, f"the picture has {size_of(len(content))}, but at most "
                                    f"{size_of(self._limits.picture_bytes)} are taken; make it smaller")
        with self._decoding:
            try:
                image = open_image(BytesIO(content))
            except (OSError, ValueError) as error:
                raise RefusalError(400, str(error)) from error
            given, side = image.size, self._limits.picture_side
            if max(given) > side:
                image.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=3.0)
            image.info.clear()  # neither colour profile nor text of the maker's camera
            encoded = BytesIO()
            image.save(encoded, "PNG", compress_level=3)
            identity = hashlib.sha256(encoded.getbuffer()).hexdigest() + ".png"
            path = self._pictures / identity
            if path.is_file():
                os.utime(path)
            else:
                self._make_room(encoded.getbuffer().nbytes)
                write_bytes(path, encoded.getvalue())
        return Picture(identity, *image.size, given if image.size != given else None)

    def path(self, identity: str) -> Path | None:
        """Return the file of a picture; None when nobody has uploaded it."""
        if not _ID.fullmatch(identity):
            return None
        path = self._pictures / identity
        if path.is_file():
            os.utime(path)
            return path
        kept = next((found for found in self._folder.glob(f"*/pictures/{identity}") if found.is_file()), None)
        if kept is None:
            return None
        copy_file(kept, path)
        return path

    def facts(self, identity: str) -> Picture:
        """Return what is known of a stored picture."""
        path = self.path(identity)
        assert path is not None, identity
        with Image.open(path, formats=("PNG",)) as image:
            return Picture(identity, *image.size)

    def _make_room(self, wanted: int) -> None:
        stored = sorted(self._stored())
        total = wanted + sum(size for _, size, _ in stored)
        for used, size, path in stored:
            if total <= self._limits.stored_bytes:
                return
            if used > time.time() - _KEPT_S:
                break
            path.unlink(missing_ok=True)
            total -= size
        if total > self._limits.stored_bytes:
            raise RefusalError(413, f"the pictures of the last hour take {size_of(total)}, but at most "
                                    f"{size_of(self._limits.stored_bytes)} are kept; use smaller ones, or wait")

    def _stored(self) -> Iterator[tuple[float, int, Path]]:
        for path in self._pictures.glob("*.png"):
            facts = path.stat()
            yield facts.st_mtime, facts.st_size, path


def copy_file(source: Path, target: Path) -> None:
    """Copy a file that is never changed: both names share its place on the disk where that can be."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
