"""Making and scoring the videos of a suite, so that a killed run goes on where it was and does nothing twice.

    <run>/
        run.json               the suite's name and hash, the system and its settings
        <id>.mp4               a video; complete or absent
        <id>.made.json         how long it took, what the system was not given; or why there is no video
        scores/<judge>/<id>.json

A video that is there was made with the settings in run.json: a run is not continued with other ones.
"""

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alchemint import media
from alchemint.s2vtime.scoring import Judge, Row
from alchemint.s2vtime.suite import Entry, Suite
from alchemint.s2vtime.systems import System

RUN_FILE = "run.json"

Mapper = Callable[[Callable[[Entry], Row], list[Entry]], Iterable[Row]]
"""Applies a function to entries, in any order, on one machine or many."""


def in_this_process(function: Callable[[Entry], Row], entries: list[Entry]) -> Iterator[Row]:
    """Apply `function` to the entries one after the other."""
    return map(function, entries)


@dataclass(frozen=True)
class Run:
    """A folder with the videos of a suite by one system. One that somebody else filled has no run.json."""

    folder: Path
    suite: Suite
    system: str
    settings: dict[str, Any]

    def video(self, entry: Entry) -> Path:
        """Return where the video of an entry lies or will lie."""
        return self.folder / f"{entry.id}.mp4"

    def made(self, entry: Entry) -> Path:
        """Return where the note on how the video was made lies or will lie."""
        return self.folder / f"{entry.id}.made.json"

    def score(self, entry: Entry, judge: str) -> Path:
        """Return where the score of an entry lies or will lie."""
        return self.folder / "scores" / _file_name(judge) / f"{entry.id}.json"


def open_run(folder: Path, suite: Suite, system: System) -> Run:
    """Begin a run in `folder`, or take up the one that is there.

    Raises ValueError when the folder holds a run of another suite, system or setting.
    """
    facts = {"suite": suite.about.name, "version": suite.about.version, "sha256": suite.sha256,
             "system": system.name, "settings": system.settings}
    path = folder / RUN_FILE
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        if different := [name for name, value in facts.items() if found.get(name) != _as_json(value)]:
            name = different[0]
            raise ValueError(f"{folder} holds a run with another {name} ({found.get(name)!r:.80}, not "
                             f"{facts[name]!r:.80}); choose another folder")
    else:
        media.write_text(path, json.dumps(facts, indent=1) + "\n")
    return Run(folder, suite, system.name, system.settings)


def make_videos(run: Run, system: System, mapper: Mapper = in_this_process, retry: bool = False) -> Iterator[Row]:
    """Make the videos that are missing; yield a row for each as it is done.

    One that failed before is left alone unless `retry`. A failure is a row with its reason, and the run goes on.
    """
    missing = [entry for entry in run.suite.entries
               if not run.video(entry).is_file() and (retry or not run.made(entry).is_file())]

    def make(entry: Entry) -> Row:
        started = time.perf_counter()
        row: Row = {"id": entry.id, "not_taken": system.abilities.not_taken(entry.storyboard)}
        try:
            frames, fps = system.make(entry)
            media.write_video(run.video(entry), frames, fps)
            row |= {"status": "made"}
        except Exception as error:  # whatever a system under test stumbles over is a result
            row |= {"status": "failed", "reason": f"{type(error).__name__}: {error}"}
        row["seconds"] = round(time.perf_counter() - started, 2)
        media.write_text(run.made(entry), json.dumps(row) + "\n")
        return row

    yield from mapper(make, missing)


def score_videos(run: Run, judge: Judge, mapper: Mapper = in_this_process) -> Iterator[Row]:
    """Score the videos that have no score by this judge yet; yield a row for each as it is done.

    An entry without a video is a row, too, with the reason that the making left.
    """
    missing = [entry for entry in run.suite.entries if not _is_current(run, entry, judge)]

    def score(entry: Entry) -> Row:
        video = run.video(entry)
        row = {**judge.score_file(video, entry), "sha256": run.suite.sha256, "of": _stamp(video)}
        if not video.is_file() and run.made(entry).is_file():
            row["reason"] = f"no video was made: {json.loads(run.made(entry).read_text())['reason']}"
        media.write_text(run.score(entry, judge.name), json.dumps(row) + "\n")
        return row

    yield from mapper(score, missing)


def read_scores(run: Run, judge: str) -> list[Row]:
    """Return the rows of all entries in the suite's order. Raises ValueError when some are not scored yet."""
    paths = [run.score(entry, judge) for entry in run.suite.entries]
    if absent := [path.stem for path in paths if not path.is_file()]:
        raise ValueError(f"{run.folder}: {len(absent)} of {len(paths)} videos are not scored by {judge} yet "
                         f"({', '.join(absent[:3])} …); run `alchemint s2vtime score {run.folder}`")
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def _is_current(run: Run, entry: Entry, judge: Judge) -> bool:
    """Tell whether an entry's score is there, of this edition of the suite and of the video as it now is."""
    path = run.score(entry, judge.name)
    if not path.is_file():
        return False
    row = json.loads(path.read_text(encoding="utf-8"))
    return bool(row["sha256"] == run.suite.sha256 and row["of"] == _stamp(run.video(entry)))


def _stamp(video: Path) -> list[int] | None:
    """Return what tells one state of a file from another: its size and time."""
    if not video.is_file():
        return None
    stat = video.stat()
    return [stat.st_size, stat.st_mtime_ns]


def _as_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)
