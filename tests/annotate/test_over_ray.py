"""Annotation over a real Ray cluster on this machine: the same rows as in this process, whoever dies over them."""

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from alchemint import record_files
from alchemint.annotate import over_ray, runner, verify
from alchemint.annotate.clip import Clip, Source
from alchemint.annotate.stages import Stage
from alchemint.records import FailedClip
from benchmarks import annotate as waiting_models

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Source]:
    return waiting_models.write_videos(tmp_path_factory.mktemp("videos"), 8)


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A cluster of two CPUs on this machine, and of one GPU that nobody uses; it knows where these modules lie."""
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False,
             runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}})
    yield "auto"
    ray.shutdown()


def find(clip: Clip) -> Clip:
    if clip.clip_id == "clip-001-000":
        raise ValueError("no frog")
    return replace(clip, caption="found")


def fatal(clip: Clip) -> Clip:
    if clip.clip_id == "clip-004-008" and "RAY_JOB_ID" in os.environ:
        os._exit(1)
    return clip


def _load_find() -> Callable[[Clip], Clip]:
    return find


def _load_fatal() -> Callable[[Clip], Clip]:
    return fatal


def _load_missing() -> Callable[[Clip], Clip]:
    raise OSError("no weights")


def test_rows_are_those_of_this_process_and_dead_workers_cost_one_clip(
    videos: list[Source], cluster: str, tmp_path: Path
) -> None:
    # Two stages on one GPU, and one that asks a server.
    stages = [Stage("find", _load_find, "gpu"), Stage("follow", _load_fatal, "gpu"),
              waiting_models.waiting("ask", 0.01, "network")]
    here, there = tmp_path / "here", tmp_path / "there"
    runner.run(waiting_models.new_job(videos, here, stages))
    tally = over_ray.run(waiting_models.new_job(videos, there, stages), cluster, num_threads=3)
    expected = {row.clip_id: row for row in record_files.read_rows(here)}
    rows = {row.clip_id: row for row in record_files.read_rows(there)}
    assert list(rows) == list(expected)
    dead = rows.pop("clip-004-008")
    assert isinstance(dead, FailedClip)
    assert (dead.stage, dead.reason) == ("follow", "the worker died 3 times")
    del expected["clip-004-008"]
    assert rows == expected
    assert tally.clips == {"ok": 14, "failed": 2} and tally.files_done == 8
    assert tally.seconds["ask"] >= 14 * 0.01 and set(tally.occupancy) == {"cut", "find", "follow", "ask", "record"}
    assert verify.check(str(there)).is_whole
    assert over_ray.run(waiting_models.new_job(videos, there, stages), cluster).files_done == 0


def test_what_can_not_be_loaded_ends_the_run(videos: list[Source], cluster: str, tmp_path: Path) -> None:
    job = waiting_models.new_job(videos, tmp_path, [Stage("find", _load_missing, "gpu")])
    with pytest.raises(OSError, match="no weights"):
        over_ray.run(job, cluster)
    assert not list(tmp_path.glob("*.parquet"))


def test_kills_lose_nothing(tmp_path: Path) -> None:
    survived = waiting_models.survive(tmp_path, num_kills=1, num_videos=20, over="local")
    assert survived.report.is_whole, survived.report.lines()
    assert survived.report.clips == {"ok": 40} and survived.num_partial_files == 0
