"""What is told of an annotation: a line while it runs, and a summary at its end."""

import re
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial

from alchemint.records import ClipRecord, FailedClip

_EVERY_S = 30.0
_MOST_LINES = 12


@dataclass
class Tally:
    """What a run has done so far.

    num_files: all that are planned. files_before: those that earlier runs have finished, whose clips are not counted.
    failures: by stage and kind of reason. dropped: entity words by the filter that left them out. seconds: what the
    workers of each stage have worked; there are `num_workers` of them. gone: planned files that are not there any more.
    """

    num_files: int = 0
    files_before: int = 0
    files_done: int = 0
    clips: Counter[str] = field(default_factory=Counter)
    failures: Counter[tuple[str, str]] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=partial(defaultdict, float))
    num_workers: dict[str, int] = field(default_factory=dict)
    gone: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    ended: float | None = None

    def begin(self, num_workers: dict[str, int]) -> None:
        """Start the clock: the work begins."""
        self.num_workers = num_workers
        self.began = time.monotonic()

    def end(self) -> None:
        """Stop the clock."""
        self.ended = time.monotonic()

    def count(self, row: ClipRecord | FailedClip) -> None:
        """Count a clip that has come to its end."""
        if isinstance(row, FailedClip):
            self.clips["failed"] += 1
            self.failures[row.stage, _kind(row.reason)] += 1
        else:
            self.clips["ok"] += 1
        self.dropped.update(dropped.filter for dropped in row.dropped)

    def add(self, other: "Tally") -> None:
        """Add what another process has done."""
        self.files_done += other.files_done
        self.clips += other.clips
        self.failures += other.failures
        self.dropped += other.dropped
        for stage, seconds in other.seconds.items():
            self.seconds[stage] += seconds

    @property
    def elapsed_s(self) -> float:
        """Seconds since the work began, or from its beginning to its end."""
        return max((self.ended or time.monotonic()) - self.began, 1e-9)

    @property
    def occupancy(self) -> dict[str, float]:
        """For each stage, the share of the time, 0..1, in which its workers were busy."""
        return {stage: self.seconds.get(stage, 0.0) / self.elapsed_s / num for stage, num in self.num_workers.items()}

    @property
    def left_s(self) -> float | None:
        """Seconds that the rest is going to take, if its files are like those before; None as long as none is done."""
        if not self.files_done:
            return None
        return self.elapsed_s / self.files_done * (self.num_files - self.files_before - self.files_done)


def line(tally: Tally) -> str:
    """Return how far a run is, in one line."""
    num_clips = tally.clips.total()
    left = "" if tally.left_s is None else f", {_clock(tally.left_s)} left"
    busy = ", ".join(f"{stage} {share:.0%}" for stage, share in tally.occupancy.items())
    return (f"{tally.files_before + tally.files_done} of {tally.num_files} files, {num_clips} clips "
            f"({tally.clips['failed']} failed), {num_clips / tally.elapsed_s:.2f} clips/s{left}; busy: {busy}")


def summary(tally: Tally) -> list[str]:
    """Return what became of a run's clips, in lines."""
    lines = [f"{tally.files_done} files in {_clock(tally.elapsed_s)}, {tally.files_before} done before; "
             f"{tally.clips.total()} clips: {tally.clips['ok']} annotated, {tally.clips['failed']} failed"]
    lines += _most_common("failed", {f"{stage}: {reason}": num for (stage, reason), num in tally.failures.items()})
    lines += _most_common("words dropped", tally.dropped)
    if tally.gone:
        lines.append(f"{len(tally.gone)} planned files have gone: {', '.join(tally.gone[:5])}"
                     + (" ..." if len(tally.gone) > 5 else ""))
    return lines


@contextmanager
def shown(tally: Tally) -> Iterator[None]:
    """Show on stderr how far a run is: a line that changes on a terminal, one every 30 s elsewhere."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(stderr=True)
    if console.is_terminal:
        with Live(get_renderable=lambda: Text(line(tally)), console=console, refresh_per_second=2, transient=True):
            yield
        return
    over = threading.Event()

    def tell() -> None:
        while not over.wait(_EVERY_S):
            print(line(tally), file=sys.stderr, flush=True)

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        over.set()
        teller.join()


def _most_common(what: str, counts: dict[str, int] | Counter[str]) -> list[str]:
    ordered = Counter(counts).most_common()
    lines = [f"  {what}: {num} x {kind}" for kind, num in ordered[:_MOST_LINES]]
    rest = ordered[_MOST_LINES:]
    if rest:
        lines.append(f"  {what}: {sum(num for _, num in rest)} more of {len(rest)} kinds")
    return lines


def _kind(reason: str) -> str:
    """Return a reason without what differs from clip to clip: names, numbers, paths."""
    reason = re.sub(r'"[^"]*"', '"..."', reason)
    reason = re.sub(r"\S*[/\\]\S+", "...", reason)
    return re.sub(r"\d+(\.\d+)?", "N", reason)[:160]


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
