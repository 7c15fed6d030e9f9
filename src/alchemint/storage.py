"""Files on disk or in an object store, by one address: a path, or a URL that fsspec opens (s3://, gs://, file://, memory://).

Whatever is written appears whole or not at all: on disk by renaming, elsewhere by one upload.
"""

import os
import posixpath
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

Address = str | os.PathLike[str]


def is_url(address: Address) -> bool:
    """Tell a URL from a plain path."""
    return "://" in os.fspath(address)


def join(folder: Address, name: str) -> str:
    """Return the address of `name`, as seen from `folder`; a URL or an absolute path stays as it is."""
    if is_url(name) or Path(name).is_absolute():
        return name
    return f"{os.fspath(folder).rstrip('/')}/{name}" if is_url(folder) else str(Path(folder) / name)


def open_file(address: Address) -> BinaryIO:
    """Open a file for reading, with `seek`.

    Raises FileNotFoundError, or ValueError for a protocol that is not known or not installed; so do all others here.
    """
    system, path = _located(address)
    return cast(BinaryIO, system.open(path, "rb"))


def read_bytes(address: Address) -> bytes:
    """Return the content of a file."""
    with open_file(address) as file:
        return file.read()


def read_end(address: Address, size: int) -> bytes:
    """Return the last `size` bytes of a file; all of a smaller one."""
    system, path = _located(address)
    content: bytes = system.cat_file(path, start=-min(size, system.size(path)) or None)
    return content


def read_parts(address: Address, parts: Sequence[tuple[int, int]]) -> list[bytes]:
    """Return parts of a file, each from a byte up to another, end-exclusive; from afar they come many at once."""
    system, path = _located(address)
    starts, ends = [start for start, _ in parts], [end for _, end in parts]
    return list(system.cat_ranges([path] * len(parts), starts, ends, on_error="raise"))


def exists(address: Address) -> bool:
    """Tell whether there is a file or a folder."""
    system, path = _located(address)
    system.invalidate_cache(posixpath.dirname(path))
    return bool(system.exists(path))


def version(address: Address) -> str:
    """Return what changes when a file is written anew."""
    system, path = _located(address)
    return str(system.ukey(path))


def file_names(folder: Address, deep: bool = False) -> list[str]:
    """Return the names of a folder's files, sorted, without hidden ones (also what a killed writer left behind).

    deep: also those of its folders, as "folder/name", without hidden folders.
    Raises FileNotFoundError for a folder that does not exist; in an object store that is one without files.
    """
    system, root = _located(folder)
    system.invalidate_cache()
    found = system.find(root, maxdepth=None if deep else 1)
    # `find` takes a file for a folder of one, and a missing folder for an empty one.
    if not system.isdir(root):
        raise FileNotFoundError(f"{os.fspath(folder)} is no folder; correct its path")
    names = (posixpath.relpath(path, root) for path in found)
    return sorted(name for name in names if not any(part.startswith(".") for part in name.split("/")))


def write_bytes(address: Address, content: bytes) -> None:
    """Write a file, whole or not at all; on disk its folder is made where it does not exist."""
    from fsspec.implementations.local import LocalFileSystem

    system, path = _located(address)
    if isinstance(system, LocalFileSystem):
        with atomic_path(path) as partial:
            partial.write_bytes(content)
    else:
        system.pipe_file(path, content)
        system.invalidate_cache(posixpath.dirname(path))


def write_text(address: Address, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    write_bytes(address, text.encode())


def delete(address: Address) -> None:
    """Delete a file."""
    system, path = _located(address)
    system.rm_file(path)
    system.invalidate_cache(posixpath.dirname(path))


@contextmanager
def atomic_path(path: Address) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to; rename it to `path` at the end, or delete it upon any exception.

    The folder is made when it does not exist. The temporary name keeps the suffix, by which writers know the format.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.partial{path.suffix}")
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _located(address: Address) -> "tuple[AbstractFileSystem, str]":
    """Return the file system that holds an address, and its path there."""
    import fsspec

    text = os.fspath(address)
    if not is_url(text):
        # A plain path is not looked at for what fsspec finds in URLs, as "::".
        system = fsspec.filesystem("file")
        return system, str(system._strip_protocol(text))
    try:
        found: tuple[AbstractFileSystem, str] = fsspec.url_to_fs(text)
    except ImportError as error:
        missing = getattr(error.__cause__, "name", None) or error.name or "the package that it names"
        raise ValueError(f"{text}: {error}; pip install {missing}") from error
    except ValueError as error:
        raise ValueError(f"{text}: {error}; give a path, or a URL as s3://bucket/folder") from error
    return found
