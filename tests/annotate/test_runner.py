"""Annotation in this process, over real little videos: every clip ends as a row, whatever happens to it."""

import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from alchemint import record_files
from alchemint.annotate import runner, shards, verify
from alchemint.annotate.clip import Clip, Source, UnfitError
from alchemint.annotate.plan import Job
from alchemint.annotate.progress import summary
from alchemint.annotate.stages import Stage
from alchemint.records import ClipRecord, Dropped, FailedClip
from benchmarks import annotate as waiting_models


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Source]:
    return waiting_models.write_videos(tmp_path_factory.mktemp("videos"), 8)


def new_job(videos: Sequence[Source], out: Path, *stages: Stage, **others: object) -> Job:
    return replace(waiting_models.new_job(videos, out, stages or (at_once("find"),)), **others)


def at_once(name: str, function: Callable[[Clip], Clip] = lambda clip: clip, where: str = "cpu") -> Stage:
    return Stage(name, lambda: function, where)


def rows_of(out: Path) -> list[ClipRecord | FailedClip]:
    return list(record_files.read_rows(out))


def digests(out: Path) -> dict[str, str]:
    return {path.name: record_files.shard_metadata(path)["digest"] for path in out.glob("*.parquet")}


def test_rows_stand_in_order_and_are_the_same_with_many_workers(videos: list[Source], tmp_path: Path) -> None:
    def uneven(clip: Clip) -> Clip:
        time.sleep(0.02 if clip.clip_id < "clip-003" else 0)
        return clip

    alone, crowd = tmp_path / "alone", tmp_path / "crowd"
    runner.run(new_job(videos, alone))
    tally = runner.run(new_job(videos[::-1][::-1], crowd, at_once("find", uneven), at_once("ask", where="network")),
                       num_workers=4)
    assert [row.clip_id for row in rows_of(alone)] == [
        f"clip-{number:03}-{first:03}" for number in range(8) for first in (0, waiting_models.NUM_FRAMES // 2)]
    assert digests(alone) == digests(crowd)
    assert sorted(digests(alone)) == [f"clips-abc-0000{number}.parquet" for number in range(3)]
    assert tally.files_done == 8 and tally.clips == {"ok": 16}
    assert verify.check(str(crowd), videos=True).is_whole


def test_whatever_fails_is_a_row_with_its_reason(videos: list[Source], tmp_path: Path) -> None:
    def cut(source: Source) -> list[Clip]:
        if source.name == "clip-001.mp4":
            raise OSError("no\nsuch disk")
        return [] if source.name == "clip-002.mp4" else waiting_models.halves(source)

    def find(clip: Clip) -> Clip:
        if clip.clip_id.startswith("clip-003"):
            raise UnfitError('no caption for "it"', (Dropped(word="sea", filter="background"),))
        while clip.clip_id.startswith("clip-004"):
            time.sleep(0.01)
        return replace(clip, dropped=(Dropped(word="fog", filter="area"),))

    def follow(clip: Clip) -> Clip:
        if clip.clip_id == "clip-005-000":
            raise KeyError
        return clip

    stages = at_once("find", find), at_once("follow", follow)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    job = new_job([*videos, Source("broken.mp4", str(broken))], tmp_path / "out", *stages, cut=cut, limit_s=1.0)
    tally = runner.run(job)
    rows = rows_of(tmp_path / "out")
    reasons = {row.clip_id: f"{row.stage}: {row.reason}" for row in rows if isinstance(row, FailedClip)}
    whole_files = {row.source: f"{row.stage}: {row.reason}" for row in rows
                   if isinstance(row, FailedClip) and row.first_frame is None}
    assert whole_files.pop("broken.mp4").startswith("cut: ValueError: ")
    assert whole_files == {"clip-001.mp4": "cut: OSError: no", "clip-002.mp4": "cut: it holds no clip"}
    assert reasons["clip-003-000"] == 'find: no caption for "it"'
    assert "longer than the 1 s" in reasons["clip-004-008"]
    assert reasons["clip-005-000"] == "follow: KeyError"
    assert len(rows) == 6 * 2 + 3 and len(reasons) == 3 + 2 + 2 + 1
    kept = {row.clip_id: row.dropped for row in rows}
    assert [dropped.word for dropped in kept["clip-003-000"]] == ["sea"]
    assert [dropped.word for dropped in kept["clip-005-000"]] == ["fog"]
    assert tally.clips == {"ok": 7, "failed": 8}
    assert any(re.search(r"failed: 2 x find: no caption for", told) for told in summary(tally))
    assert any("words dropped: 8 x area" in told for told in summary(tally))
    assert verify.check(str(tmp_path / "out")).is_whole


def test_finished_shards_are_not_made_again(videos: list[Source], tmp_path: Path) -> None:
    seen: list[str] = []

    def note(clip: Clip) -> Clip:
        seen.append(clip.clip_id)
        return clip

    runner.run(new_job(videos[:4], tmp_path, at_once("find", note)))
    (tmp_path / "clips-abc-00001.parquet").unlink()
    leftover = tmp_path / ".clips-abc-00000.0123abcd.partial.parquet"
    leftover.touch()
    seen.clear()
    # Of the first shard, which is done, and of the second, one file has gone; two have come.
    tally = runner.run(new_job([videos[1], videos[2], *videos[4:6]], tmp_path, at_once("find", note)))
    assert sorted(seen) == ["clip-004-000", "clip-004-008", "clip-005-000", "clip-005-008"]
    assert tally.files_before == 3 and tally.files_done == 3
    assert tally.gone == ["clip-000.mp4", "clip-003.mp4"]
    gone = [row for row in rows_of(tmp_path) if isinstance(row, FailedClip)]
    assert [(row.source, row.reason) for row in gone] == [
        ("clip-003.mp4", "the file has gone since the work was planned")]
    assert not leftover.exists()
    assert verify.check(str(tmp_path)).is_whole
    assert runner.run(new_job(videos[:2], tmp_path)).files_done == 0


def test_two_runs_at_once_on_one_folder_do_no_harm(videos: list[Source], tmp_path: Path) -> None:
    def run(_: int) -> int:
        return runner.run(new_job(videos, tmp_path, num_files=1)).files_done

    with ThreadPoolExecutor(2) as threads:
        done = list(threads.map(run, range(2)))
    assert max(done) == 8
    assert verify.check(str(tmp_path)).is_whole
    assert not list(tmp_path.glob(".*"))


def test_shards_may_lie_in_an_object_store(videos: list[Source]) -> None:
    out = "memory://annotated/records"
    job = replace(new_job(videos[:4], Path("unused")), out=out)
    assert runner.run(job).files_done == 4
    assert runner.run(job).files_done == 0
    assert verify.check(out).is_whole


def test_few_files_are_on_their_way_however_many_there_are(videos: list[Source], tmp_path: Path) -> None:
    cut, ended, most = [], [], []

    def count(source: Source) -> list[Clip]:
        cut.append(source)
        most.append(len(cut) - len(ended) / 2)
        return waiting_models.halves(videos[0])

    def slow(clip: Clip) -> Clip:
        time.sleep(0.002)
        ended.append(clip)
        return replace(clip, clip_id=f"{clip.clip_id}-{len(ended)}")

    sources = [Source(f"{number:03}.mp4", videos[0].address) for number in range(60)]
    runner.run(new_job(sources, tmp_path, at_once("find", slow), cut=count))
    # Three threads: cut, find, record.
    assert len(cut) == 60 and 2 <= max(most) <= 2 * 3 + 1


def test_each_worker_loads_its_own_models_and_no_more(videos: list[Source], tmp_path: Path) -> None:
    loaded: list[str] = []

    def load() -> Callable[[Clip], Clip]:
        loaded.append(threading.current_thread().name)
        return lambda clip: clip

    stages = Stage("find", load, "gpu"), Stage("ask", load, "network")
    runner.run(new_job(videos[:3], tmp_path, *stages), num_workers=2, num_threads=3)
    assert sorted(loaded) == ["ask 0", "ask 1", "ask 2", "find 0", "find 1"]


def test_what_can_not_be_loaded_ends_the_run(videos: list[Source], tmp_path: Path) -> None:
    def load() -> Callable[[Clip], Clip]:
        raise OSError("no weights")

    before = threading.active_count()
    with pytest.raises(OSError, match="no weights"):
        runner.run(new_job(videos, tmp_path, Stage("find", load)))
    assert not list(tmp_path.glob("*.parquet"))
    assert threading.active_count() == before


def test_a_stage_that_does_nothing_but_break_ends_the_run(videos: list[Source], tmp_path: Path) -> None:
    def cut(source: Source) -> list[Clip]:
        clip = waiting_models.halves(videos[0])[0]
        return [replace(clip, clip_id=f"{source.name}-{number}") for number in range(10)]

    def broken(_: Clip) -> Clip:
        raise RuntimeError("CUDA error: device-side assert")

    def refusing(clip: Clip) -> Clip:
        raise ValueError("not this one")

    with pytest.raises(shards.BrokenStageError, match=r"find: 32 clips failed .* CUDA error: device-side assert; mend"):
        runner.run(new_job(videos, tmp_path / "broken", at_once("find", broken), cut=cut))
    assert len(list((tmp_path / "broken").glob("*.parquet"))) == 1  # thirty clips, before that was sure
    assert runner.run(new_job(videos, tmp_path / "refusing", at_once("find", refusing), cut=cut)).clips["failed"] == 80


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_asked_to_end_does_so_at_once(videos: list[Source], tmp_path: Path, sign: signal.Signals) -> None:
    program = f"""
import pathlib, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
from alchemint.annotate import runner
from benchmarks import annotate
videos = annotate.videos_in(pathlib.Path({str(Path(videos[0].address).parent)!r}))
stages = [annotate.waiting("find", 0.1, "cpu"), annotate.waiting("follow", 1.5, "cpu")]
runner.run(annotate.new_job(videos, pathlib.Path({str(tmp_path)!r}), stages, num_files=1))
"""
    with subprocess.Popen([sys.executable, "-c", program], cwd=Path(__file__).parents[2], stderr=subprocess.PIPE,
                          env={"PYTHONPATH": ".:src", "OMP_NUM_THREADS": "1"}, text=True) as process:
        until = time.monotonic() + 60
        while not list(tmp_path.glob("*.parquet")) and time.monotonic() < until:
            time.sleep(0.05)
        began = time.monotonic()
        process.send_signal(sign)
        process.wait(20)
        assert time.monotonic() - began < 3
        assert process.stderr is not None
        said = process.stderr.read()
    assert process.returncode == (143 if sign == signal.SIGTERM else -signal.SIGINT)
    assert "Fatal" not in said
    report = verify.check(str(tmp_path))
    assert report.clips["ok"] >= 2 and all("not annotated yet" in fault for fault in report.faults)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.slow
def test_twenty_kills_lose_nothing(tmp_path: Path) -> None:
    survived = waiting_models.survive(tmp_path, num_kills=20, num_videos=70)
    assert survived.report.is_whole, survived.report.lines()
    assert survived.report.clips == {"ok": 140} and survived.num_partial_files == 0
    assert survived.num_at_work >= 10
