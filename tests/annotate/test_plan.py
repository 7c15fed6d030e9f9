"""Plans: frozen, only ever extended, and no folder of two settings."""

from dataclasses import replace
from pathlib import Path

import pytest

from alchemint import record_files
from alchemint.annotate.clip import Clip, Given, Source
from alchemint.annotate.plan import Job, Shard, given_digest, make_plan, plan_name, read_plan, shard_name
from alchemint.records import ClipRecord


def nothing(_: Source) -> list[Clip]:
    return []


def no_row(clip: Clip) -> ClipRecord:
    raise NotImplementedError


def job(out: Path, names: str, num_files: int = 2, **others: object) -> Job:
    job = Job([Source(name, f"/clips/{name}") for name in names], str(out), "k1", num_files, nothing, (), no_row)
    return replace(job, **others)


def write_shard(out: Path, names: str, number: int = 0, failed: int = 0) -> None:
    sources = [Source(name, f"/clips/{name}") for name in names]
    about = {"given": given_digest(sources), "failed": str(failed)}
    record_files.write_shard(out / shard_name("k1", number), [], about)


def test_later_files_make_new_shards_and_none_is_moved(tmp_path: Path) -> None:
    _, pending = make_plan(job(tmp_path, "bdf"))
    assert pending == [Shard(0, ("b", "d")), Shard(1, ("f",))]
    write_shard(tmp_path, "bd")
    # One has gone, two have come before the others, and shards are larger now.
    plan, pending = make_plan(job(tmp_path, "acdefg", num_files=3))
    assert plan.shards == (Shard(0, ("b", "d")), Shard(1, ("f",)), Shard(2, ("a", "c", "e")), Shard(3, ("g",)))
    assert pending == list(plan.shards[1:])
    before = (tmp_path / plan_name("k1")).read_bytes()
    assert make_plan(job(tmp_path, "a"))[0] == plan
    assert (tmp_path / plan_name("k1")).read_bytes() == before


def test_other_settings_are_refused_and_named(tmp_path: Path) -> None:
    old = job(tmp_path, "ab", settings={"perception": {"box_threshold": 0.25, "kind": "toy"}, "words": {"most": 4}})
    make_plan(old)
    new = replace(old, key="k2", settings={"perception": {"box_threshold": 0.3, "kind": "toy"}, "words": {"most": 4}})
    make_plan(new)  # no records are there yet
    write_shard(tmp_path, "ab")
    with pytest.raises(ValueError, match=r"\(perception\.box_threshold: 0\.25, now 0\.3\), as clips-k1-00000\.parquet"):
        make_plan(new)
    make_plan(old)
    (tmp_path / "clips-00000.parquet").touch()
    with pytest.raises(ValueError, match=r"as clips-00000\.parquet; training would read both"):
        make_plan(old)


def test_another_folders_videos_are_refused(tmp_path: Path) -> None:
    """Their names may be the same."""
    make_plan(job(tmp_path, "ab", root="../park"))
    make_plan(job(tmp_path, "abc", root="../park"))
    with pytest.raises(ValueError, match=r"records of the videos in \.\./park, not of those in \.\./lake"):
        make_plan(job(tmp_path, "ab", root="../lake"))


def test_what_is_said_anew_is_made_anew(tmp_path: Path) -> None:
    first = job(tmp_path, "abcd")
    make_plan(first)
    for number, names in enumerate(("ab", "cd")):
        write_shard(tmp_path, names, number)
    assert make_plan(first)[1] == []
    said = [replace(source, given=(Given("A fox."),)) if source.name == "c" else source for source in first.sources]
    assert make_plan(replace(first, sources=said))[1] == [Shard(1, ("c", "d"))]
    # Of a file that has gone nothing is said any more, which changes nothing.
    assert make_plan(replace(first, sources=said[:3]))[1] == []


def test_shards_with_failures_are_made_anew_when_told(tmp_path: Path) -> None:
    first = job(tmp_path, "abcd")
    make_plan(first)
    for number, names in enumerate(("ab", "cd")):
        write_shard(tmp_path, names, number, failed=number)
    assert make_plan(first)[1] == []
    assert make_plan(replace(first, retry=True))[1] == [Shard(1, ("c", "d"))]
    # What is known of a file that has gone would be lost.
    assert make_plan(replace(first, retry=True, sources=first.sources[:3]))[1] == []


def test_a_damaged_shard_is_made_anew(tmp_path: Path) -> None:
    make_plan(job(tmp_path, "ab"))
    (tmp_path / shard_name("k1", 0)).write_bytes(b"PAR1")
    assert make_plan(job(tmp_path, "ab"))[1] == [Shard(0, ("a", "b"))]


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='two video files are called "a"'):
        make_plan(job(tmp_path, "aba"))


@pytest.mark.parametrize("text", ["", "{", "[]\n", '{"key": "k1", "settings": {}}\n{"shard": 0}\n'])
def test_what_is_no_plan_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / plan_name("k1")).write_text(text)
    with pytest.raises(ValueError, match=r"plan-k1\.jsonl is no plan of an annotation"):
        read_plan(str(tmp_path), "k1")
