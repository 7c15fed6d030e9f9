"""Work over a real Ray cluster on this machine, and what is loaded where it is used."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from alchemint.s2vtime import runs, spread
from alchemint.s2vtime.scoring import Row
from alchemint.s2vtime.suite import About, Entry, Suite, write_suite
from alchemint.s2vtime.systems import Abilities, CommandSystem, System, Video

NUM = 5


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    return write_suite(tmp_path / "suite", About(name="ponds", version=1), [
        {"id": f"pond-{number}", "storyboard": {"prompt": f"pond {number}"}} for number in range(NUM)])


class Noting:
    """A system that notes its process; it fails on one pond, and its process dies over another."""

    name = "noting"
    abilities = Abilities()

    def __init__(self, folder: Path) -> None:
        self.settings: dict[str, object] = {}
        self._folder = folder
        with (folder / "loads").open("a") as file:
            file.write(f"{os.getpid()}\n")

    def make(self, entry: Entry) -> Video:
        with (self._folder / "calls").open("a") as file:
            file.write(f"{entry.id}\n")
        if entry.id == "pond-1":
            raise ValueError("no frog")
        if entry.id == "pond-3":
            os._exit(1)
        return np.full((5, 16, 32, 3), 90, np.uint8), 6.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A cluster of two workers on this machine, which knows where this module lies."""
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False,
             runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}})
    yield "auto"
    ray.shutdown()


@pytest.mark.slow
def test_no_cluster_is_told(suite: Suite, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    system = CommandSystem("copy {storyboard} {output}")
    run = runs.open_run(tmp_path / "run", suite, system)
    with pytest.raises(ValueError, match=r"no Ray cluster at 127\.0\.0\.1:1"):
        list(runs.make_videos(run, system, spread.over_ray("127.0.0.1:1")))


@pytest.mark.slow
def test_a_cluster_makes_each_video_once_and_survives_its_workers(
    suite: Suite, cluster: str, tmp_path: Path
) -> None:
    system = spread.DeferredSystem("noting", Abilities(), {}, lambda: Noting(tmp_path))
    run = runs.open_run(tmp_path / "run", suite, system)
    rows = {row["id"]: row for row in runs.make_videos(run, system, spread.over_ray(cluster, 2))}
    assert set(rows) == {entry.id for entry in suite.entries}
    assert {name: row["status"] for name, row in rows.items() if row["status"] != "made"} == {
        "pond-1": "failed", "pond-3": "failed"}
    assert rows["pond-1"]["reason"] == "ValueError: no frog"
    assert "the worker died 3 times" in rows["pond-3"]["reason"]
    calls = (tmp_path / "calls").read_text().split()
    assert [calls.count(entry.id) for entry in suite.entries] == [1, 1, 1, 3, 1]
    # Loaded by the workers only, once each and again by those that came in place of the dead.
    loads = (tmp_path / "loads").read_text().split()
    assert str(os.getpid()) not in loads
    assert len(loads) == len(set(loads)) <= 2 + 3
    assert list(runs.make_videos(run, system, spread.over_ray(cluster, 2))) == []


def test_a_deferred_system_is_loaded_by_its_first_video(suite: Suite, tmp_path: Path) -> None:
    system: System = spread.DeferredSystem("noting", Abilities(), {}, lambda: Noting(tmp_path))
    run = runs.open_run(tmp_path / "run", suite, system)
    assert list(runs.make_videos(run, system, entries=[])) == []
    assert not (tmp_path / "loads").exists()
    rows = list(runs.make_videos(run, system, entries=suite.entries[:3]))
    assert [row["status"] for row in rows] == ["made", "failed", "made"]
    assert len((tmp_path / "loads").read_text().split()) == 1


def test_a_deferred_judge_is_loaded_by_its_first_video(suite: Suite, tmp_path: Path) -> None:
    loads = []

    class Nobody:
        name = "nobody"

        def score_file(self, path: Path, entry: Entry) -> Row:
            return {"id": entry.id, "status": "failed", "reason": "nobody looked"}

    def load() -> Nobody:
        loads.append(1)
        return Nobody()

    judge = spread.DeferredJudge("nobody", load)
    run = runs.Run(tmp_path, suite, "theirs", {})
    assert [row["reason"] for row in runs.score_videos(run, judge)] == ["nobody looked"] * NUM
    assert len(loads) == 1
