"""A shard on its way from video files to rows: whatever happens to a clip, it ends as a row. Both runners use this."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alchemint import record_files, storage
from alchemint.annotate.clip import Clip, Source, UnfitError
from alchemint.annotate.plan import Job, given_digest, make_plan, plan_name, shard_name
from alchemint.annotate.progress import Tally
from alchemint.annotate.shots import clip_id
from alchemint.annotate.stages import Stage
from alchemint.annotate.time_limit import TimeLimitError, within
from alchemint.records import ClipRecord, FailedClip

Row = ClipRecord | FailedClip

CUT = "cut"
"""The stage before all others, which makes clips of a video file."""

_HOPELESS = 32
"""A stage that breaks over so many clips in a row is broken itself; so many false rows would never be made again."""


class BrokenStageError(RuntimeError):
    """A stage fails whatever it is given: models, devices, disks or servers are to be mended, not clips."""


@dataclass
class Worker:
    """A stage at work: its function, with models loaded, and how it fares."""

    job: Job
    name: str
    work: Callable[[Any], Any]
    limit_s: float | None = None
    seconds: float = 0.0
    _failures: int = field(default=0, repr=False)

    def take(self, what: Source | Clip) -> Any:
        """Return what the stage makes of a clip (of a source: its clips), or the row of its failure.

        Raises BrokenStageError when the stage has done nothing but break, many times in a row.
        """
        began = time.perf_counter()
        try:
            made = within(self.limit_s, self.work, what)
            self._failures = 0
            return made
        except (UnfitError, TimeLimitError) as error:
            return failed(self.job, what, self.name, str(error), getattr(error, "dropped", ()))
        except Exception as error:  # whatever a stage stumbles over is its clip's row
            reason = _told(error)
            # What is wrong with a clip is told by ValueError; clips by the dozen may well be.
            self._failures += not isinstance(error, ValueError)
            if self._failures >= _HOPELESS:
                raise BrokenStageError(f"{self.name}: {self._failures} clips failed one after another, the last by "
                                       f"{reason}; mend that, and run the same command with --retry, which makes "
                                       "shards with failed clips anew") from error
            return failed(self.job, what, self.name, reason)
        finally:
            self.seconds += time.perf_counter() - began


def cutter(job: Job) -> Worker:
    """Return the worker that cuts sources into clips: a list of them, or the row of the file's failure."""

    def cut(source: Source) -> list[Clip]:
        if not source.address:
            raise UnfitError("the file has gone since the work was planned")
        clips = job.cut(source)
        if not clips:
            raise UnfitError("it holds no clip")
        return clips

    return Worker(job, CUT, cut, job.limit_s)


def worker(job: Job, stage: Stage) -> Worker:
    """Load a stage."""
    return Worker(job, stage.name, stage.load(), None if stage.where == "network" else job.limit_s)


def failed(job: Job, what: Source | Clip, stage: str, reason: str, dropped: Sequence[Any] = ()) -> FailedClip:
    """Return the row of a clip, or of a whole file, that could not be annotated."""
    if isinstance(what, Source):
        return FailedClip(clip_id=clip_id(what.name), source=what.name, stage=stage, reason=reason,
                          video=job.video_of(what) if what.address else what.name)
    return FailedClip(clip_id=what.clip_id, source=what.source.name, video=job.video_of(what.source),
                      first_frame=what.first_frame, num_frames=what.num_frames, stage=stage, reason=reason,
                      dropped=tuple(dropped) or what.dropped)


def pending_sources(job: Job, tally: Tally) -> dict[int, list[Source]]:
    """Plan a job, clear away what killed runs left of it, and return the sources of each shard that is to be made.

    One that has gone since it was planned has no address. Raises as `make_plan` does.
    """
    plan, pending = make_plan(job)
    found = {shard.number: [job.known.get(name, Source(name, "")) for name in shard.names] for shard in pending}
    clear_partial_files(job.out, plan_name(job.key))
    for shard in plan.shards:
        if shard.number not in found:
            clear_partial_files(job.out, shard_name(job.key, shard.number))
    tally.num_files = sum(len(shard.names) for shard in plan.shards)
    tally.files_before = tally.num_files - sum(map(len, found.values()))
    tally.gone = [name for shard in plan.shards for name in shard.names if name not in job.known]
    return found


def write(job: Job, number: int, sources: Sequence[Source], rows: Mapping[str, list[Row]]) -> None:
    """Write a shard, given its sources and the rows of each by their names, in the order of the plan."""
    address = storage.join(job.out, shard_name(job.key, number))
    ordered = {name: sorted(rows[name], key=_by_time) for name in rows}
    ids = {name: [row.clip_id for row in of_one] for name, of_one in ordered.items()}
    try:
        record_files.write_shard(address, [row for of_one in ordered.values() for row in of_one],
                                 _metadata(job, number, sources, rows, ids))
    except FileNotFoundError:
        # Another run on the folder was quicker, and cleared away what it took for a killed run's.
        if not storage.exists(address):
            raise
    clear_partial_files(job.out, shard_name(job.key, number))


def _metadata(job: Job, number: int, sources: Sequence[Source], rows: Mapping[str, list[Row]],
              ids: Mapping[str, list[str]]) -> dict[str, str]:
    """Return what a shard's file tells of how it was made."""
    num_failed = sum(isinstance(row, FailedClip) for of_one in rows.values() for row in of_one)
    return {"key": job.key, "shard": str(number), "clips": json.dumps(ids), "failed": str(num_failed),
            "given": given_digest(sources)}


def clear_partial_files(out: str, name: str) -> None:
    """Delete what killed runs left of a file that exists whole by now (object stores have nothing such)."""
    if not storage.is_url(out):
        for partial in Path(out).glob(f".{Path(name).stem}.*"):
            partial.unlink(missing_ok=True)


def _by_time(row: Row) -> tuple[int, str]:
    return row.first_frame or 0, row.clip_id


def _told(error: Exception) -> str:
    """Return an exception's name and first line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:300]}".removesuffix(": ")
