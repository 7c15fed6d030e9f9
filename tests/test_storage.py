"""Files behind an address: the same on disk, by URL and in an object store."""

import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
from fsspec import AbstractFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from alchemint import storage


@pytest.fixture(params=["path", "file://", "memory://"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty folder, by a path or a URL."""
    return {"path": str(tmp_path), "file://": f"file://{tmp_path}", "memory://": f"memory://{uuid.uuid4()}"}[
        request.param]


def test_what_is_written_is_read(root: str) -> None:
    address = storage.join(root, "deep/below/a.bin")
    assert not storage.exists(address)
    storage.write_bytes(address, bytes(range(100)))
    assert storage.exists(address)
    assert storage.read_bytes(address) == bytes(range(100))
    with storage.open_file(address) as file:
        file.seek(40)
        assert (file.read(2), file.tell()) == (b"()", 42)
    assert storage.read_end(address, 3) == b"abc"
    assert storage.read_end(address, 1000) == bytes(range(100))
    assert storage.read_parts(address, [(10, 12), (0, 1), (99, 100)]) == [b"\n\x0b", b"\0", b"c"]
    storage.delete(address)
    assert not storage.exists(address)


def test_text_is_utf_8(root: str) -> None:
    storage.write_text(storage.join(root, "a.txt"), "é – ü")
    assert storage.read_bytes(storage.join(root, "a.txt")).decode("utf-8") == "é – ü"


def test_an_empty_file_has_an_end(root: str) -> None:
    storage.write_bytes(storage.join(root, "empty"), b"")
    assert storage.read_end(storage.join(root, "empty"), 8) == b""


def test_a_files_version_changes_with_it(root: str) -> None:
    address = storage.join(root, "a")
    storage.write_bytes(address, b"one")
    first = storage.version(address)
    assert storage.version(address) == first
    storage.write_bytes(address, b"two")
    assert storage.version(address) != first


def test_files_are_listed_without_hidden_ones(root: str) -> None:
    for name in ("b.parquet", "a.mp4", "sub/c.mp4", "sub/sub/d", ".a.1234.partial.parquet", ".cache/e", "sub/.f"):
        storage.write_bytes(storage.join(root, name), b"x")
    assert storage.file_names(root) == ["a.mp4", "b.parquet"]
    assert storage.file_names(root, deep=True) == ["a.mp4", "b.parquet", "sub/c.mp4", "sub/sub/d"]
    assert storage.file_names(storage.join(root, "sub")) == ["c.mp4"]
    for name in ("nowhere", "a.mp4"):
        with pytest.raises(FileNotFoundError, match=f"{name} is no folder; correct its path"):
            storage.file_names(storage.join(root, name))


def test_a_missing_file_is_told(root: str) -> None:
    for reading in (storage.read_bytes, storage.open_file, storage.version, storage.delete):
        with pytest.raises(FileNotFoundError, match="missing"):
            reading(storage.join(root, "missing"))


def test_names_are_joined_as_seen_from_a_folder() -> None:
    assert storage.join(Path("/clips"), "videos/a.mp4") == "/clips/videos/a.mp4"
    assert storage.join("clips", "a.mp4") == "clips/a.mp4"
    assert storage.join("s3://bucket/clips/", "videos/a.mp4") == "s3://bucket/clips/videos/a.mp4"
    for given in ("/elsewhere/a.mp4", "gs://other/a.mp4"):
        assert storage.join("s3://bucket/clips", given) == storage.join("/clips", given) == given


def test_a_plain_path_is_no_url_whatever_it_holds(tmp_path: Path) -> None:
    address = tmp_path / "a::b#c?d %20*.txt"
    storage.write_text(address, "plain")
    assert address.read_text() == "plain"
    assert storage.read_bytes(address) == b"plain"
    assert storage.file_names(tmp_path) == [address.name]


@pytest.mark.parametrize(("url", "advice"), [
    ("s3://bucket/a", "pip install s3fs"), ("gs://bucket/a", "pip install gcsfs"), ("nix://a", "Protocol not known")])
def test_a_protocol_that_cannot_be_had_says_how(url: str, advice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("s3fs", "gcsfs"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=rf"^{url}: .*{advice}") as caught:
        storage.exists(url)
    assert "\n" not in str(caught.value)


def test_a_broken_off_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.write_bytes(tmp_path / "a", b"old")

    def full(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[:1])
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="disk full"):
        storage.write_bytes(tmp_path / "a", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


def test_what_others_write_is_seen_though_listings_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Object stores' file systems keep listings until they are told to forget them, as this one does."""
    kept: dict[str, Any] = {}
    listed = MemoryFileSystem.ls

    def ls(self: MemoryFileSystem, path: str, detail: bool = True, **options: Any) -> Any:
        path = self._strip_protocol(path)
        if path not in kept:
            kept[path] = listed(self, path, detail=True, **options)
        return kept[path] if detail else [entry["name"] for entry in kept[path]]

    def exists(self: MemoryFileSystem, path: str, **options: Any) -> bool:
        path = self._strip_protocol(path)
        return path in ls(self, self._parent(path), detail=False)

    monkeypatch.setattr(MemoryFileSystem, "ls", ls)
    monkeypatch.setattr(MemoryFileSystem, "exists", exists)
    monkeypatch.setattr(MemoryFileSystem, "invalidate_cache",
                        lambda self, path=None: kept.pop(self._strip_protocol(path), None) if path else kept.clear())
    monkeypatch.setattr(MemoryFileSystem, "find", AbstractFileSystem.find)
    folder = f"memory://{uuid.uuid4()}"
    storage.write_bytes(f"{folder}/a", b"1")
    storage.write_bytes(f"{folder}/sub/a", b"1")
    assert storage.file_names(folder, deep=True) == ["a", "sub/a"]
    MemoryFileSystem().pipe_file(f"{folder}/sub/b", b"2")
    assert storage.file_names(folder, deep=True) == ["a", "sub/a", "sub/b"]
    assert storage.file_names(folder) == ["a"] and not storage.exists(f"{folder}/b")
    MemoryFileSystem().pipe_file(f"{folder}/b", b"2")
    assert storage.exists(f"{folder}/b")
    MemoryFileSystem().pipe_file(f"{folder}/c", b"3")
    assert storage.file_names(folder) == ["a", "b", "c"]
