"""Verification: a whole folder has no fault, and each way of being broken is named."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alchemint import record_files
from alchemint.annotate import runner, verify
from alchemint.annotate.plan import plan_name, shard_name
from alchemint.records import ClipRecord
from benchmarks import annotate as waiting_models

FIRST, SECOND = shard_name("abc", 0), shard_name("abc", 1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    runner.run(waiting_models.new_job(waiting_models.write_videos(folder / "videos", 4), folder / "records", []))
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy of annotated clips, the videos of which lie beside it."""
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    for shard in (tmp_path / "records").glob("*.parquet"):
        rewrite(shard, lambda rows: [
            row.model_copy(update={"video": f"../videos/{Path(row.video).name}"}) for row in rows])
    return tmp_path / "records"


def rewrite(shard: Path, change: Callable[[list[Any]], list[Any]]) -> None:
    metadata = record_files.shard_metadata(shard)
    record_files.write_shard(shard, change(record_files.read_shard(shard)),
                             {name: metadata[name] for name in ("key", "shard", "clips")})


def with_track(record: ClipRecord, **parts: Any) -> ClipRecord:
    entity = record.entities[0]
    track = entity.track.model_copy(update=parts)
    return record.model_copy(update={"entities": (entity.model_copy(update={"track": track}),)})


def changed(values: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
    return *values[:2], value, *values[3:]


def test_a_whole_folder_has_no_fault(folder: Path) -> None:
    report = verify.check(str(folder), videos=True)
    assert report.is_whole and report.clips == {"ok": 8} and (report.num_files, report.num_shards) == (4, 2)
    assert report.lines() == [f"{folder}: 4 files planned in 2 shards; clips: 8 ok", "whole"]


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda folder: (folder / SECOND).unlink(),
                rf"{SECOND} is not there: 1 files are not annotated yet"),
    "no plan": (lambda folder: (folder / plan_name("abc")).unlink(), "there is no plan"),
    "cut off": (lambda folder: (folder / FIRST).write_bytes((folder / FIRST).read_bytes()[:-100]),
                rf"{FIRST} can't be read"),
    "twice": (lambda folder: rewrite(folder / FIRST, lambda rows: [*rows, rows[1]]),
              'clip "clip-000-008" is there 2 times'),
    "lost": (lambda folder: rewrite(folder / FIRST, lambda rows: rows[:2] + rows[3:]), 'clip "clip-001-000" is lost'),
    "other's": (lambda folder: (folder / "clips-00000.parquet").write_bytes((folder / FIRST).read_bytes()),
                r"clips-00000\.parquet is in no plan"),
    "area": (lambda folder: rewrite(folder / FIRST, lambda rows: [with_track(
        rows[0], areas=changed(rows[0].entities[0].track.areas, 3)), *rows[1:]]), "frame 2: its area is 3, but"),
    "box": (lambda folder: rewrite(folder / FIRST, lambda rows: [with_track(
        rows[0], boxes=changed(rows[0].entities[0].track.boxes, (1, 2, 3, 4))), *rows[1:]]),
            r"frame 2: its box is \(1, 2, 3, 4\), but"),
    "mask": (lambda folder: rewrite(folder / FIRST, lambda rows: [with_track(
        rows[0], masks=changed(rows[0].entities[0].track.masks, "04")), *rows[1:]]),
             "frame 2: a mask does not hold 64 x 32 pixels"),
    "no masks": (lambda folder: rewrite(folder / FIRST, lambda rows: [with_track(rows[0], masks=()), *rows[1:]]),
                 "it has no masks"),
    "video": (lambda folder: (folder.parent / "videos/clip-003.mp4").unlink(), r"its video .*clip-003\.mp4 is not"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_broken_is_named(folder: Path, kind: str) -> None:
    breaks, told = BROKEN[kind]
    breaks(folder)
    report = verify.check(str(folder), videos=True)
    assert not report.is_whole
    assert any(re.search(told, fault) for fault in report.faults), report


def test_a_file_that_the_plan_has_and_the_shard_has_not_is_named(folder: Path) -> None:
    plan = folder / plan_name("abc")
    lines = [json.loads(line) for line in plan.read_text().splitlines()]
    lines[2]["files"] = ["other.mp4"]
    plan.write_text("\n".join(map(json.dumps, lines)))
    assert verify.check(str(folder)).faults == [
        f'{SECOND}: file "other.mp4" has no clip', f'{SECOND}: file "clip-003.mp4" is not in its plan']


def test_many_faults_are_cut_short() -> None:
    report = verify.Report("here", faults=[f"fault {number}" for number in range(70)])
    assert len(report.lines()) == 1 + 50 + 2 and report.lines()[-2:] == ["  and 20 more", "70 faults"]
