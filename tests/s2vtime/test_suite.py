"""Suites: what is written loads again, whatever changes changes the hash, and all faults are told at once."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from alchemint.s2vtime.suite import About, Suite, load_suite, write_suite

ABOUT = About(name="two", version=1, description="a fox, and a fox with a duck")


def row(name: str, *subjects: str, **values: Any) -> dict[str, Any]:
    return {"id": name, "source": {"index": 3}, "storyboard": {
        "prompt": f"A {' and a '.join(subjects)} play.", "duration": 4.0,
        "subjects": [{"name": word, "word": word, "images": [f"images/{word}.png"], "appears": [[0.5, 3.0]]}
                     for word in subjects], **values}}


@pytest.fixture
def new_suite(tmp_path: Path) -> Callable[..., Suite]:
    """A function that writes a suite of the given rows into the folder `two`."""

    def write(*rows: dict[str, Any], about: About = ABOUT, colour: str = "red") -> Suite:
        for word in ("fox", "duck"):
            (tmp_path / "two" / "images").mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), colour).save(tmp_path / "two" / "images" / f"{word}.png")
        return write_suite(tmp_path / "two", about, rows)

    return write


def test_what_is_written_is_loaded_again(new_suite: Callable[..., Suite], tmp_path: Path) -> None:
    suite = new_suite(row("a-1", "fox"), row("a-2", "fox", "duck"))
    assert suite.about == ABOUT
    assert [entry.id for entry in suite.entries] == ["a-1", "a-2"]
    duck = suite.entries[1].storyboard.subjects[1]
    assert (duck.word, duck.appears) == ("duck", ((0.5, 3.0),))
    assert duck.images == (tmp_path / "two/images/duck.png",)
    assert suite.entries[0].source == {"index": 3}
    assert load_suite(tmp_path / "two") == suite


def test_the_hash_is_of_storyboards_and_pictures_alone(new_suite: Callable[..., Suite]) -> None:
    rows = [row("a", "fox"), row("b", "duck")]
    hashes = [
        new_suite(*rows).sha256,
        new_suite({**rows[0], "source": {}}, rows[1], about=About(name="other", version=7)).sha256,
        new_suite(rows[1], rows[0]).sha256,
        new_suite(row("a", "fox", seed=1), rows[1]).sha256,
        new_suite({**rows[0], "id": "c"}, rows[1]).sha256,
        new_suite(*rows, colour="blue").sha256,
    ]
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 5


def test_all_faults_of_a_suite_are_told_at_once(new_suite: Callable[..., Suite], tmp_path: Path) -> None:
    new_suite(row("a", "fox"))
    rows = [row("a", "fox"), row("a", "duck"), row("b/c", "fox"), row("d", "cat"), row("e", "fox", fsp=3), [1],
            {**row("f", "fox"), "extra": 1}]
    (tmp_path / "two" / "storyboards.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows) + "{\n")
    with pytest.raises(ValueError) as error:
        load_suite(tmp_path / "two")
    lines = str(error.value).splitlines()
    assert [int(line.split("line ")[1].split(":")[0]) for line in lines] == [2, 3, 4, 5, 6, 7, 8]
    for line, part in zip(lines, ['"a" is given twice', "id 'b/c'", "cat.png does not exist", "fsp", "not an entry",
                                  "unknown keys ['extra']", "Expecting"], strict=True):
        assert part in line


def test_an_empty_or_missing_suite_is_told(new_suite: Callable[..., Suite], tmp_path: Path) -> None:
    new_suite(row("a", "fox"))
    (tmp_path / "two" / "storyboards.jsonl").write_text("")
    with pytest.raises(ValueError, match="holds no storyboard"):
        load_suite(tmp_path / "two")
    (tmp_path / "two" / "suite.json").write_text('{"name": "x", "version": 0}')
    with pytest.raises(ValueError, match="version"):
        load_suite(tmp_path / "two")
    with pytest.raises(FileNotFoundError, match='no suite "three"'):
        load_suite("three")
