"""Systems under test: whatever makes a video of a storyboard.

A system says what it can't take, so that a result tells what it was not given. Systems that need the package's own
pipeline or toyworld are put together by the command line.
"""

import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from alchemint import media
from alchemint.s2vtime.suite import Entry
from alchemint.storyboard import Storyboard

Video = tuple[np.ndarray, float]
"""Frames (frames, height, width, 3) uint8 and frames per second."""


@dataclass(frozen=True)
class Abilities:
    """What a system takes of a storyboard. None: any number."""

    references: bool = True
    max_subjects: int | None = None
    views_per_subject: int | None = None
    intervals: bool = True
    events: bool = True

    def not_taken(self, storyboard: Storyboard) -> list[str]:
        """Return what of `storyboard` the system is not given."""
        subjects = storyboard.subjects
        missing = []
        if subjects and not self.references:
            missing.append("references")
        if subjects and not self.intervals:
            missing.append("intervals")
        if self.max_subjects is not None and len(subjects) > self.max_subjects:
            missing.append(f"subjects after the first {self.max_subjects}")
        if self.views_per_subject is not None and any(len(one.images) > self.views_per_subject for one in subjects):
            missing.append(f"views after the first {self.views_per_subject}")
        if storyboard.events and not self.events:
            missing.append("events")
        return missing


class System(Protocol):
    """Makes videos."""

    @property
    def name(self) -> str:
        """The system's name."""

    @property
    def abilities(self) -> Abilities:
        """What it takes of a storyboard."""

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides its videos beside the storyboard, as plain JSON."""

    def make(self, entry: Entry) -> Video:
        """Return the video of an entry's storyboard; any exception is recorded as the reason of a failure."""


@dataclass
class CommandSystem:
    """Any program: a command line in which {storyboard} and {output} stand for files, {seed} for the seed."""

    command: str
    name: str = "command"
    abilities: Abilities = Abilities()
    timeout_s: float | None = None
    settings: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        if "{output}" not in self.command or "{storyboard}" not in self.command:
            raise ValueError(f'command "{self.command}" must name {{storyboard}} and {{output}}, the files that it '
                             "reads and writes")
        self.settings = {"command": self.command}

    def make(self, entry: Entry) -> Video:
        """Run the command on the storyboard as a JSON file, pictures as absolute paths, and read what it wrote."""
        with tempfile.TemporaryDirectory() as folder:
            storyboard, output = Path(folder) / "storyboard.json", Path(folder) / "video.mp4"
            storyboard.write_text(entry.storyboard.model_dump_json(exclude_none=True), encoding="utf-8")
            places = {"storyboard": str(storyboard), "output": str(output), "seed": str(entry.storyboard.seed or 0)}
            arguments = [part.format(**places) for part in shlex.split(self.command)]
            done = subprocess.run(arguments, capture_output=True, text=True, timeout=self.timeout_s, check=False)
            if done.returncode:
                raise RuntimeError(f"the command ended with status {done.returncode}: {_last_lines(done.stderr)}")
            if not output.is_file():
                raise RuntimeError(f"the command ended well but wrote no {{output}}: {_last_lines(done.stderr)}")
            return media.read_video(output)


def timed_prompt(storyboard: Storyboard) -> str:
    """Return the prompt with the subjects' times in words, for systems that take nothing but text.

    "A fox trots. The fox is on screen from 0.5 to 3 seconds."
    """
    times = [f"The {subject.word} is on screen {_in_words(subject.appears)}." for subject in storyboard.subjects]
    return " ".join([storyboard.prompt.rstrip(), *times])


def _in_words(intervals: Sequence[tuple[float, float]]) -> str:
    return " and ".join(f"from {start:g} to {end:g} seconds" for start, end in intervals)


def _last_lines(text: str, count: int = 5) -> str:
    return " | ".join(text.strip().splitlines()[-count:]) or "it printed nothing to stderr"
