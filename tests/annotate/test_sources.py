"""Video files are found with what was said of them; all faults of a captions file are told at once."""

import json
import os
from pathlib import Path
from typing import Any

import fsspec
import pytest

from alchemint.annotate.clip import Given, Source
from alchemint.annotate.sources import find_sources
from alchemint.records import TimedCaption


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.mp4", "a.MOV", "deep/er/c.webm", "notes.md", "picture.png", ".hidden.mp4", ".cache/d.mp4", "e.txt"):
        (tmp_path / "clips" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "clips" / name).write_bytes(b"")
    return tmp_path / "clips"


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def test_videos_are_found_by_their_suffixes(folder: Path) -> None:
    assert find_sources(folder) == [Source(name, str(folder / name)) for name in ("a.MOV", "b.mp4", "deep/er/c.webm")]


def test_addresses_do_not_depend_on_the_working_directory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    assert find_sources("clips") == find_sources(folder) == find_sources(f"{folder}/")


def test_an_object_store(tmp_path: Path) -> None:
    store = fsspec.filesystem("memory")
    for name, content in (("x/1.mp4", b""), ("x/1.txt", "Ein Süßes".encode()), ("2.mp4", b"")):
        store.pipe_file(f"/sources/{name}", content)
    assert find_sources("memory://sources/") == [
        Source("2.mp4", "memory://sources/2.mp4"),
        Source("x/1.mp4", "memory://sources/x/1.mp4", (Given("Ein Süßes"),))]
    store.pipe_file("/captions.jsonl", b'{"video": "2.mp4", "caption": "two"}\n')
    assert [one.given for one in find_sources("memory://sources", "memory://captions.jsonl")] == [(Given("two"),), ()]


def test_a_text_beside_a_video_is_its_caption(folder: Path) -> None:
    (folder / "a.txt").write_text("\ufeff A cat. \n", encoding="utf-8")
    (folder / "b.txt").write_text("  \n")
    (folder / "deep/er/c.txt").write_text("A dog.\nIt runs.")
    assert [one.given for one in find_sources(folder)] == [(Given("A cat."),), (), (Given("A dog.\nIt runs."),)]
    (folder / "b.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"b\.txt is not UTF-8 text"):
        find_sources(folder)
    captions = lines(folder / "captions.jsonl", {"video": "a.MOV", "caption": "Another."})
    assert [one.given for one in find_sources(folder, captions)] == [(Given("Another."),), (), ()]


def test_captions_events_and_parts(folder: Path) -> None:
    captions = lines(
        folder.parent / "captions.jsonl",
        {"video": "./deep/er/c.webm", "caption": " whole ", "events": [{"during": [0, 2.5], "text": "x"}]}, "",
        {"video": "b.mp4", "caption": "second", "during": [4, 5.5]},
        {"video": "b.mp4", "caption": "first", "during": [1, 4], "events": [{"during": [1, 3], "text": "y"}]})
    captions.write_bytes(b"\xef\xbb\xbf" + captions.read_bytes().replace(b"\n", b"\r\n"))
    assert [one.given for one in find_sources(folder, captions)] == [
        (),
        (Given("second", during=(4, 5.5)), Given("first", (TimedCaption(during=(1, 3), text="y"),), (1, 4))),
        (Given("whole", (TimedCaption(during=(0, 2.5), text="x"),)),)]


FAULTS = [
    ({"video": "a.MOV"}, "caption: Field required"),
    ({"video": "a.MOV", "caption": " "}, "caption: it is empty"),
    ({"video": "a.MOV", "caption": "a", "fps": 3}, "fps: Extra inputs are not permitted"),
    ({"video": "none.mp4", "caption": "a"}, 'there is no video "none.mp4"'),
    ("{'video': 1}", "Expecting property name"),
    ("[1, 2]", "valid dictionary"),
    ("[" * 100_000, "nested too deeply"),
    ({"video": "a.MOV", "caption": "a", "during": [3, 2]}, r"during: \[3.0, 2.0\] is no interval"),
    ({"video": "a.MOV", "caption": "a", "during": [-1, 2]}, "is no interval"),
    ({"video": "a.MOV", "caption": "a", "during": ["1", 2]}, "valid number"),
    ('{"video": "a.MOV", "caption": "a", "during": [0, Infinity]}', "finite number"),
    ('{"video": "a.MOV", "caption": "a", "during": [NaN, 1]}', "finite number"),
    ({"video": "a.MOV", "caption": "a", "events": [{"during": [0, 0], "text": "b"}]}, "events.0.during: .*interval"),
    ({"video": "a.MOV", "caption": "a", "events": [{"during": [0, 1], "text": ""}]}, "events.0.text: it is empty"),
    ({"video": "a.MOV", "caption": "a", "during": [5, 7], "events": [{"during": [1, 6], "text": "b"}]},
     r"event \[1.0, 6.0\] ends after the part .* lasts 2 s"),
]


@pytest.mark.parametrize(("row", "message"), FAULTS)
def test_a_fault_is_told_with_its_line(folder: Path, row: Any, message: str) -> None:
    captions = lines(folder / "captions.jsonl", {"video": "b.mp4", "caption": "fine"}, "", row)
    with pytest.raises(ValueError, match=rf"^{captions}: line 3: (.*{message})") as told:
        find_sources(folder, captions)
    assert "\n" not in str(told.value)


def test_lines_that_contradict_each_other(folder: Path) -> None:
    one = {"video": "b.mp4", "caption": "a"}
    captions = lines(folder / "captions.jsonl", one, one, {**one, "during": [0, 1]}, {**one, "video": "a.MOV"},
                     {**one, "video": "deep/er/c.webm", "during": [0, 1]},
                     {**one, "video": "deep/er/../er/c.webm", "during": [0, 1]},
                     {**one, "video": "deep/er/c.webm", "during": [1, 2]}, {**one, "video": "deep/er/c.webm"})
    with pytest.raises(ValueError) as told:
        find_sources(folder, captions)
    found = [fault.removeprefix(f"{captions}: ") for fault in str(told.value).splitlines()]
    assert [fault.split(":")[0] for fault in found] == ["line 2", "line 3", "line 6", "line 8"]
    assert "the whole of \"b.mp4\" has a caption already, in line 1" in found[0]
    assert "captions of parts and one of the whole, see line 1" in found[1]
    assert "this part" in found[2] and "in line 5" in found[2]
    assert "see line 5" in found[3]


def test_all_faults_are_told_and_twenty_shown(folder: Path) -> None:
    captions = lines(folder / "captions.jsonl", *["nonsense"] * 30, *[{"video": "x", "caption": 3, "more": 1}])
    with pytest.raises(ValueError) as told:
        find_sources(folder, captions)
    shown = str(told.value).splitlines()
    assert len(shown) == 21
    assert shown[19].startswith(f"{captions}: line 20: ")
    assert shown[20] == f"{captions}: and 12 more"


def test_folders_and_captions_that_are_not_there(folder: Path, tmp_path: Path) -> None:
    for wrong in (tmp_path / "none", folder / "b.mp4", "memory://nothing-here"):
        with pytest.raises(ValueError, match="is no folder"):
            find_sources(wrong)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty holds no video; files with these suffixes are taken: .*\.mp4"):
        find_sources(tmp_path / "empty")
    with pytest.raises(ValueError, match="no such captions file"):
        find_sources(folder, tmp_path / "captions.jsonl")
    (tmp_path / "captions.jsonl").write_bytes(b'{"video": "\xff"}')
    with pytest.raises(ValueError, match="not UTF-8 text"):
        find_sources(folder, tmp_path / "captions.jsonl")


def test_a_name_that_is_no_text_is_told(folder: Path) -> None:
    try:
        (folder / os.fsdecode(b"\xff.mp4")).write_bytes(b"")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with pytest.raises(ValueError, match=r"names of 1 videos, as '\\udcff\.mp4', are no UTF-8"):
        find_sources(folder)
