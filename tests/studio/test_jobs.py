"""The job runner: its order, its progress, what outlives a restart."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from alchemint.storyboard import load_storyboard
from alchemint.studio.checking import check
from alchemint.studio.job import JobOptions
from alchemint.studio.job_folder import JobFolder
from alchemint.studio.jobs import JobRunner
from alchemint.studio.pictures import PictureStore
from alchemint.studio.refusal import RefusalError
from alchemint.studio.settings import Limits, Settings
from tests.studio_server import DEFAULTS, FakeMaker, png, settings, storyboard, wait_for


class Bench:
    """A runner with all that it needs."""

    def __init__(self, chosen: Settings) -> None:
        self.settings, self.changes = chosen, list[str]()
        self.pictures = PictureStore(chosen.folder, chosen.limits)
        self.runner = JobRunner(JobFolder(chosen.folder), chosen.make, self.pictures, chosen.limits,
                                DEFAULTS.num_frames, self.changes.append)
        self.runner.start()

    def submit(self, document: dict[str, Any] | None = None, **options: Any) -> list[str]:
        document = document or storyboard()
        checked = check(document, self.settings.model, self.settings.limits, self.pictures)
        assert checked.storyboard is not None, checked.faults
        return [job["id"] for job in self.runner.submit(document, checked.storyboard, JobOptions(**options))]

    def job(self, name: str) -> dict[str, Any]:
        found = self.runner.get(name)
        assert found is not None
        return found

    def state(self, name: str) -> str:
        return self.job(name)["state"]


@pytest.fixture
def maker() -> FakeMaker:
    return FakeMaker()


@pytest.fixture
def bench(tmp_path: Path, maker: FakeMaker) -> Iterator[Bench]:
    made = Bench(settings(tmp_path / "studio", maker))
    yield made
    made.runner.stop()


def test_jobs_are_made_in_their_order_and_move_up(bench: Bench, maker: FakeMaker) -> None:
    maker.held.set()
    names = [bench.submit(seed=seed, steps=2)[0] for seed in range(4)]
    wait_for(lambda: bench.state(names[0]) == "running")
    assert [bench.job(name)["place"] for name in names] == [0, 1, 2, 3]
    bench.runner.cancel(names[1])
    assert [bench.job(name)["place"] for name in names] == [0, None, 1, 2]
    bench.changes.clear()
    maker.held.clear()
    assert all(bench.runner.wait_ended(name, 10) for name in names)
    assert [bench.state(name) for name in names] == ["done", "cancelled", "done", "done"]
    assert [order.storyboard.seed for order in maker.orders] == [0, 2, 3]
    last_of_third = len(bench.changes) - 1 - bench.changes[::-1].index(names[2])
    assert bench.changes.index(names[3]) < last_of_third, "who moves up is told"


def test_progress_tells_pace_and_remaining_time(bench: Bench, maker: FakeMaker) -> None:
    maker.step_s = 0.05
    name = bench.submit(storyboard(num_frames=49), steps=8, preview_every=3)[0]
    seen = []

    def note() -> bool:
        seen.append(bench.job(name))
        return seen[-1]["state"] == "done"

    wait_for(note)
    assert seen[0]["num_steps"] == 24, "three windows"
    middle = next(job for job in seen if job["step"] == 4)
    assert 0.04 < middle["step_s"] < 0.5
    assert middle["remaining_s"] == pytest.approx(middle["step_s"] * 20, rel=0.01)
    assert middle["preview"].endswith("/files/preview.png?step=3")
    assert [job["step"] for job in seen] == sorted(job["step"] for job in seen)
    assert seen[-1]["remaining_s"] is None


def test_a_running_job_is_cancelled_within_a_second(bench: Bench, maker: FakeMaker) -> None:
    maker.held.set()
    name, queued = bench.submit(steps=4, variations=2)
    wait_for(lambda: bench.state(name) == "running")
    for job in (queued, name):
        assert bench.runner.cancel(job)
        assert bench.runner.wait_ended(job, 1.0)
        assert bench.state(job) == "cancelled"
        assert not bench.runner.cancel(job), "it has ended"
    folder = bench.settings.folder / name
    assert sorted(path.name for path in folder.iterdir()) == ["job.json", "storyboard.json"]


def test_results_outlive_a_restart_and_what_was_unfinished_is_told(tmp_path: Path, maker: FakeMaker) -> None:
    chosen = settings(tmp_path, maker)
    first = Bench(chosen)
    identity = first.pictures.add(png()).id
    done = first.submit(storyboard(identity), seed=3, steps=2)[0]
    assert first.runner.wait_ended(done, 10)
    wait_for(lambda: first.changes.count(done) >= 5)  # it was looked at
    before = first.job(done)
    maker.held.set()
    running, waiting = first.submit(variations=2)
    wait_for(lambda: first.state(running) == "running")
    first.runner._folder.close()  # as if the process had been killed: nothing is told

    again = Bench(settings(tmp_path, FakeMaker()))
    try:
        assert again.job(done) == before
        for name in (running, waiting):
            assert again.state(name) == "cancelled"
            assert again.job(name)["faults"] == ["the server was stopped before the video was made; generate it again"]
        assert [job["id"] for job in again.runner.newest(9)] == [waiting, running, done]
        later = again.submit(storyboard(identity), steps=1)[0]
        assert again.runner.wait_ended(later, 10)
    finally:
        again.runner.stop()
        first.runner.stop()


def test_stopping_the_server_ends_all_jobs(tmp_path: Path, maker: FakeMaker) -> None:
    maker.held.set()
    bench = Bench(settings(tmp_path, maker))
    names = bench.submit(variations=3)
    bench.runner.stop()
    for name in names:
        record = json.loads((tmp_path / name / "job.json").read_text(encoding="utf-8"))
        assert (record["state"], len(record["faults"])) == ("cancelled", 1)
    assert not bench.runner._worker.is_alive()


def test_a_jobs_folder_stands_alone(bench: Bench) -> None:
    identity = bench.pictures.add(png()).id
    board = storyboard(identity, negative_prompt="blur")
    name = bench.submit(board, seed=9, steps=1)[0]
    assert bench.runner.wait_ended(name, 10)
    loaded = load_storyboard(bench.settings.folder / name / "storyboard.json", DEFAULTS)
    assert (loaded.seed, loaded.negative_prompt) == (9, "blur")
    assert bench.job(name)["storyboard"] == {**board, "seed": 9}
    assert bench.job(name)["options"]["seed"] == 9


def test_a_picture_comes_back_from_a_job_that_has_it(bench: Bench) -> None:
    identity = bench.pictures.add(png()).id
    name = bench.submit(storyboard(identity), steps=1)[0]
    assert bench.runner.wait_ended(name, 10)
    stored = bench.settings.folder / "pictures" / identity
    content = stored.read_bytes()
    stored.unlink()
    found = bench.pictures.path(identity)
    assert found is not None and found.read_bytes() == content
    assert bench.runner.remove(name)
    assert stored.is_file(), "removing a job leaves the uploaded picture"


def test_broken_job_folders_are_passed_over(tmp_path: Path) -> None:
    for name, record, board in (("a", "{", "{}"), ("b", "{}", "{}"), ("c", '{"id": "d"}', "{}"), ("d", "[]", "[]"),
                                ("e", None, "{}")):
        (tmp_path / name).mkdir()
        if record is not None:
            (tmp_path / name / "job.json").write_text(record, encoding="utf-8")
        (tmp_path / name / "storyboard.json").write_text(board, encoding="utf-8")
    bench = Bench(settings(tmp_path))
    try:
        assert bench.runner.newest(9) == []
    finally:
        bench.runner.stop()


def test_two_servers_do_not_share_a_folder(bench: Bench) -> None:
    with pytest.raises(ValueError, match="is in use by another studio"):
        JobFolder(bench.settings.folder)


def test_a_full_store_lets_old_pictures_go_and_keeps_new_ones(tmp_path: Path) -> None:
    one = len(png((40, 40), "red", compress_level=3))
    store = PictureStore(tmp_path, Limits(stored_bytes=int(2.5 * one)))
    old, new = (store.add(png((40, 40), colour)) for colour in ("red", "blue"))
    with pytest.raises(RefusalError, match=r"at most .* are kept"):
        store.add(png((40, 40), "green"))
    os.utime(tmp_path / "pictures" / old.id, (0, 0))
    assert store.add(png((40, 40), "green")).id
    assert store.path(old.id) is None
    assert store.path(new.id) is not None
    assert store.add(png((40, 40), "blue")) == new, "the same picture takes no room again"


def test_a_large_picture_is_reduced_and_says_so(tmp_path: Path) -> None:
    store = PictureStore(tmp_path, Limits(picture_side=32))
    stored = store.add(png((128, 64)))
    assert (stored.width, stored.height, stored.reduced_from) == (32, 16, (128, 64))
    assert store.facts(stored.id).width == 32


def test_variations_are_queued_all_or_none(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []

    def write(folder: JobFolder, job: Any) -> None:
        written.append(job.id)
        if len(written) == 3:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(JobFolder, "write", write)
    with pytest.raises(RefusalError, match="No space left") as caught:
        bench.submit(variations=4)
    assert caught.value.status == 503
    assert bench.runner.newest(9) == []
    assert not any((bench.settings.folder / name).exists() for name in written)
