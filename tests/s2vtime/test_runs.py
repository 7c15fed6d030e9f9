"""Runs of a real program as the system under test: resumed, retried, killed, and never mixed."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alchemint import media
from alchemint.s2vtime import runs
from alchemint.s2vtime.scoring import Judge
from alchemint.s2vtime.suite import About, Suite, load_suite, write_suite
from alchemint.s2vtime.systems import Abilities, CommandSystem, timed_prompt
from tests.forks import FORKS

COPIER = """
import json, shutil, sys
storyboard, output, log, video = sys.argv[1:]
prompt = json.load(open(storyboard))["prompt"]
open(log, "a").write(prompt + "\\n")
if "fail" in prompt:
    sys.exit("no frog\\nin this pond")
shutil.copyfile(video, output)
"""
NUM = 4


class Grey:
    """Embeddings that tell nothing apart."""

    def embed_words(self, words: Sequence[str]) -> np.ndarray:
        return np.ones((len(words), 1))

    def embed_pictures(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        return np.ones((len(pictures), 1))


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    folder = tmp_path / "suite"
    (folder / "images").mkdir(parents=True)
    Image.new("RGB", (8, 8), "green").save(folder / "images" / "frog.png")
    subject = {"name": "frog", "word": "frog", "images": ["images/frog.png"], "appears": [[0.5, 3.0]]}
    return write_suite(folder, About(name="ponds", version=2), [
        {"id": f"pond-{number}", "storyboard": {"prompt": f"pond {number}" + " fails" * (number == 2),
                                                "subjects": [subject]}} for number in range(NUM)])


@pytest.fixture
def new_system(tmp_path: Path) -> Callable[..., CommandSystem]:
    """A function that makes a system out of a program that notes each prompt in `calls` and copies one video."""
    (tmp_path / "copy.py").write_text(COPIER)
    frames = np.full((25, 16, 32, 3), 90, np.uint8)
    media.write_video(tmp_path / "video.mp4", frames, 6.0)

    def new(before: str = "", **values: Any) -> CommandSystem:
        script = f"{before}{sys.executable} {tmp_path}/copy.py"
        return CommandSystem(f"{script} {{storyboard}} {{output}} {tmp_path}/calls {tmp_path}/video.mp4", **values)

    return new


@pytest.fixture
def judge(suite: Suite) -> Judge:
    return Judge("all over", lambda video, sought: np.ones((len(sought), *video.shape[:3]), bool), Grey(), suite)


def calls(folder: Path) -> list[str]:
    return (folder / "calls").read_text().splitlines() if (folder / "calls").is_file() else []


def test_every_storyboard_is_made_once_and_failures_are_rows(
    suite: Suite, new_system: Callable[..., CommandSystem], tmp_path: Path
) -> None:
    system = new_system(abilities=Abilities(intervals=False))
    run = runs.open_run(tmp_path / "run", suite, system)
    rows = list(runs.make_videos(run, system))
    assert [row["status"] for row in rows] == ["made", "made", "failed", "made"]
    assert "status 1: no frog | in this pond" in rows[2]["reason"]
    assert all(row["not_taken"] == ["intervals"] for row in rows)
    assert list(runs.make_videos(run, system)) == []
    assert len(calls(tmp_path)) == NUM

    run.video(suite.entries[0]).unlink()
    run.made(suite.entries[0]).unlink()
    assert [row["id"] for row in runs.make_videos(run, system)] == ["pond-0"]
    assert [row["id"] for row in runs.make_videos(run, system, retry=True)] == ["pond-2"]


def test_a_run_is_not_continued_with_other_settings(
    suite: Suite, new_system: Callable[..., CommandSystem], tmp_path: Path
) -> None:
    runs.open_run(tmp_path / "run", suite, new_system())
    runs.open_run(tmp_path / "run", suite, new_system())
    with pytest.raises(ValueError, match="another settings"):
        runs.open_run(tmp_path / "run", suite, new_system(before="env "))
    with pytest.raises(ValueError, match="another system"):
        runs.open_run(tmp_path / "run", suite, new_system(name="other"))


def test_scores_follow_the_videos(
    suite: Suite, new_system: Callable[..., CommandSystem], judge: Judge, tmp_path: Path
) -> None:
    system = new_system()
    run = runs.open_run(tmp_path / "run", suite, system)
    list(runs.make_videos(run, system))
    with pytest.raises(ValueError, match="4 of 4 videos are not scored by all over yet"):
        runs.read_scores(run, judge.name)
    assert [row["status"] for row in runs.score_videos(run, judge)] == ["ok", "ok", "failed", "ok"]
    assert list(runs.score_videos(run, judge)) == []
    rows = runs.read_scores(run, judge.name)
    assert [row["id"] for row in rows] == [entry.id for entry in suite.entries]
    assert "no frog" in rows[2]["reason"]
    assert rows[0]["subjects"][0]["t_iou"] == pytest.approx(15 / 25)

    media.write_video(run.video(suite.entries[3]), np.full((25, 16, 32, 3), 10, np.uint8), 6.0)
    assert [row["id"] for row in runs.score_videos(run, judge)] == ["pond-3"]


def test_a_folder_that_somebody_else_filled_is_scored(suite: Suite, judge: Judge, tmp_path: Path) -> None:
    run = runs.Run(tmp_path / "theirs", suite, "theirs", {})
    media.write_video(run.video(suite.entries[1]), np.full((25, 16, 32, 3), 10, np.uint8), 6.0)
    rows = list(runs.score_videos(run, judge))
    assert [row["status"] for row in rows] == ["failed", "ok", "failed", "failed"]
    assert "pond-0.mp4" in rows[0]["reason"]


def work(folder: Path, command: str, what: str, said: Connection) -> None:
    """Make or score all videos; say when that begins, and the id of each that is done."""
    def look(video: np.ndarray, sought: Sequence[Any]) -> np.ndarray:
        time.sleep(0.1)
        return np.ones((len(sought), *video.shape[:3]), bool)

    suite, system = load_suite(folder / "suite"), CommandSystem(command)
    run = runs.open_run(folder / "run", suite, system)
    said.send("begun")
    for row in (runs.make_videos(run, system) if what == "make" else
                runs.score_videos(run, Judge("all over", look, Grey(), suite))):
        said.send(row["id"])


def all_of(said: Connection) -> Iterator[str]:
    """What was said before the other end went."""
    with suppress(EOFError), said:
        while True:
            yield said.recv()


@pytest.mark.slow
@pytest.mark.parametrize("what", ["make", "score"])
def test_twenty_kills_lose_nothing_and_do_nothing_twice(
    what: str, suite: Suite, new_system: Callable[..., CommandSystem], judge: Judge, tmp_path: Path
) -> None:
    """The process is killed at any moment of its work, and begun again; then once left alone to the end."""
    random = np.random.default_rng(0)
    system = new_system()
    run = runs.open_run(tmp_path / "run", suite, system)
    if what == "score":
        list(runs.make_videos(run, system))
    said: list[str] = []
    for kill in range(21):
        ours, theirs = FORKS.Pipe(duplex=False)
        process = FORKS.Process(target=work, args=(tmp_path, system.command, what, theirs))
        process.start()
        theirs.close()
        assert ours.recv() == "begun"
        if kill < 20:
            time.sleep(float(random.uniform(0, 0.3)))
            process.kill()
        said += all_of(ours)
        process.join()
        if kill < 20 and all((run.made(entry) if what == "make" else run.score(entry, judge.name)).is_file()
                             for entry in suite.entries):
            # Done too early: take one away, so that there is something to be killed at.
            victim = suite.entries[int(random.choice([0, 1, 3]))]
            for path in ([run.video(victim), run.made(victim)] if what == "make" else [run.score(victim, judge.name)]):
                path.unlink(missing_ok=True)
            said = [name for name in said if name != victim.id]
    assert len(said) == len(set(said)), "a video was done twice"
    assert list(runs.make_videos(run, system)) == []
    rows = list(runs.score_videos(run, judge))
    if what == "score":
        assert rows == []
    assert [row["status"] for row in runs.read_scores(run, judge.name)] == ["ok", "ok", "failed", "ok"]
    whole = [path for path in (tmp_path / "run").glob("pond*.mp4")
             if media.read_video(path)[0].shape == (25, 16, 32, 3)]
    assert len(whole) == 3


def test_a_command_must_name_its_files() -> None:
    with pytest.raises(ValueError, match="must name"):
        CommandSystem("python make.py {storyboard}")


def test_times_can_be_told_in_words(suite: Suite) -> None:
    assert timed_prompt(suite.entries[0].storyboard) == "pond 0 The frog is on screen from 0.5 to 3 seconds."


def test_what_a_system_does_not_take_is_told(suite: Suite) -> None:
    board = suite.entries[0].storyboard
    assert Abilities().not_taken(board) == []
    assert Abilities(references=False, intervals=False, max_subjects=0, views_per_subject=0).not_taken(board) == [
        "references", "intervals", "subjects after the first 0", "views after the first 0"]
