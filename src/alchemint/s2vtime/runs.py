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
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from alchemint import media
from alchemint.s2vtime.scoring import Row
from alchemint.s2vtime.suite import SHIPPED, Entry, Suite, load_suite
from alchemint.s2vtime.systems import System

RUN_FILE = "run.json"
_SCORES = "scores"

Mapper = Callable[[Callable[[Entry], Row], list[Entry], Callable[[Entry, str], Row]], Iterable[Row]]
"""Applies a function to entries, in any order, on one machine or many (`spread.over_ray`). The last argument is told of
an entry that was lost with the machine that worked on it, and why; it returns the entry's row."""


class Scorer(Protocol):
    """Scores video files. `name` says which perception and embedder look, with their editions."""

    @property
    def name(self) -> str:
        """The judge's name."""

    def score_file(self, path: Path, entry: Entry) -> Row:
        """Return the row of a video file; one that is missing or unreadable is a row with the reason."""


def in_this_process(function: Callable[[Entry], Row], entries: list[Entry],
                    lost: Callable[[Entry, str], Row]) -> Iterator[Row]:
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
        return self.folder / _SCORES / _file_name(judge) / f"{entry.id}.json"


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
        shipped = suite.folder.parent == SHIPPED
        where = {} if shipped else {"suite_folder": str(suite.folder.resolve())}
        media.write_text(path, json.dumps({**facts, **where}, indent=1) + "\n")
    return Run(folder, suite, system.name, system.settings)


def find_run(folder: Path, suite: str | Path | None = None) -> Run:
    """Return the run in `folder`, of the suite that it was made of; or, of a folder without run.json, of `suite`.

    Raises ValueError when the suite must be told, or is another edition than the run's; FileNotFoundError when there
    is no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    path = folder / RUN_FILE
    if not path.is_file():
        if suite is None:
            raise ValueError(f"{folder} has no {RUN_FILE} to tell the suite of its videos; name it with --suite")
        return Run(folder, load_suite(suite), folder.resolve().name, {})
    facts = json.loads(path.read_text(encoding="utf-8"))
    loaded = load_suite(suite or facts.get("suite_folder", facts["suite"]))
    if loaded.sha256 != facts["sha256"]:
        raise ValueError(f"{folder} was made of suite {facts['suite']} with hash {facts['sha256'][:12]}, and the suite "
                         f"in {loaded.folder} has hash {loaded.sha256[:12]}; name the right one with --suite, or run "
                         "again")
    return Run(folder, loaded, facts["system"], facts["settings"])


def judges_of(run: Run) -> list[str]:
    """Return the names of the folders of the judges that scored any video of a run."""
    return sorted(path.name for path in (run.folder / _SCORES).glob("*") if path.is_dir())


def make_videos(run: Run, system: System, mapper: Mapper = in_this_process, retry: bool = False,
                entries: Sequence[Entry] | None = None) -> Iterator[Row]:
    """Make the videos that are missing, of `entries` or of the whole suite; yield a row for each as it is done.

    One that failed before is left alone unless `retry`. A failure is a row with its reason, and the run goes on.
    """
    missing = [entry for entry in (run.suite.entries if entries is None else entries)
               if not run.video(entry).is_file() and (retry or not run.made(entry).is_file())]

    def make(entry: Entry) -> Row:
        started = time.perf_counter()
        try:
            frames, fps = system.make(entry)
            media.write_video(run.video(entry), frames, fps)
            outcome: Row = {"status": "made"}
        except Exception as error:  # whatever a system under test stumbles over is a result
            outcome = {"status": "failed", "reason": f"{type(error).__name__}: {error}"}
        return note(entry, {**outcome, "seconds": round(time.perf_counter() - started, 2)})

    def note(entry: Entry, outcome: Row) -> Row:
        row = {"id": entry.id, "not_taken": system.abilities.not_taken(entry.storyboard), **outcome}
        media.write_text(run.made(entry), json.dumps(row) + "\n")
        return row

    yield from mapper(make, missing, lambda entry, reason: note(entry, {"status": "failed", "reason": reason}))


def score_videos(run: Run, judge: Scorer, mapper: Mapper = in_this_process) -> Iterator[Row]:
    """Score the videos that have no score by this judge yet; yield a row for each as it is done.

    An entry without a video is a row, too, with the reason that the making left.
    """
    missing = [entry for entry in run.suite.entries if not _is_current(run, entry, judge)]

    def score(entry: Entry) -> Row:
        return note(entry, judge.score_file(run.video(entry), entry))

    def note(entry: Entry, outcome: Row) -> Row:
        video = run.video(entry)
        row = {**outcome, "sha256": run.suite.sha256, "of": _stamp(video)}
        if not video.is_file() and run.made(entry).is_file():
            row["reason"] = f"no video was made: {json.loads(run.made(entry).read_text())['reason']}"
        media.write_text(run.score(entry, judge.name), json.dumps(row) + "\n")
        return row

    yield from mapper(score, missing, lambda entry, reason: note(
        entry, {"id": entry.id, "status": "failed", "reason": reason}))


def read_scores(run: Run, judge: str) -> list[Row]:
    """Return the rows of all entries in the suite's order. Raises ValueError when some are not scored yet."""
    paths = [run.score(entry, judge) for entry in run.suite.entries]
    if absent := [path.stem for path in paths if not path.is_file()]:
        raise ValueError(f"{run.folder}: {len(absent)} of {len(paths)} videos are not scored by {judge} yet "
                         f"({', '.join(absent[:3])} …); run `alchemint s2vtime score {run.folder}`")
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def _is_current(run: Run, entry: Entry, judge: Scorer) -> bool:
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
