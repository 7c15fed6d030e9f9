"""Is an annotation whole? Every planned file once, every clip once, every track as its masks say."""

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from alchemint import masks, record_files, storage
from alchemint.annotate.plan import Plan, keys_of, plan_name, read_plan, shard_name
from alchemint.records import ClipRecord, Entity, FailedClip

if TYPE_CHECKING:
    from alchemint.annotate.shards import Row

_MOST_FAULTS = 50


@dataclass
class Report:
    """What was found of an annotation: numbers of clips by their status and of files, and faults by their names."""

    folder: str
    num_files: int = 0
    num_shards: int = 0
    clips: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        """Whether there is no fault."""
        return not self.faults

    def lines(self) -> list[str]:
        """Return the report in lines, of the faults the first fifty."""
        counts = ", ".join(f"{num} {status}" for status, num in sorted(self.clips.items())) or "none"
        lines = [f"{self.folder}: {self.num_files} files planned in {self.num_shards} shards; clips: {counts}"]
        lines += [f"  {fault}" for fault in self.faults[:_MOST_FAULTS]]
        if len(self.faults) > _MOST_FAULTS:
            lines.append(f"  and {len(self.faults) - _MOST_FAULTS} more")
        return [*lines, "whole" if self.is_whole else f"{len(self.faults)} faults"]


def check(folder: str, videos: bool = False) -> Report:
    """Compare a folder of records with its plan, and decode every track; videos: also whether each video is there.

    Raises FileNotFoundError for a folder that does not exist.
    """
    names = storage.file_names(folder)
    report = Report(folder)
    keys = keys_of(names)
    if not keys:
        report.faults.append("there is no plan (plan-....jsonl): whether files are missing can't be told")
    if len(keys) > 1:
        report.faults.append(f"there are {len(keys)} plans, of different settings; keep one, and the shards of its key")
    shards = {name for name in names if name.endswith(".parquet")}
    seen: Counter[str] = Counter()
    for key in keys:
        try:
            plan = read_plan(folder, key)
        except ValueError as error:
            report.faults.append(str(error))
            continue
        _check_plan(folder, plan, shards, report, seen, videos)
        shards -= {shard_name(key, shard.number) for shard in plan.shards}
    for name in sorted(shards):
        report.faults.append(f"{name} is in no plan")
        _check_rows(folder, name, report, seen, videos)
    report.faults += [f'clip "{clip_id}" is there {num} times' for clip_id, num in seen.items() if num > 1]
    return report


def _check_plan(folder: str, plan: Plan, shards: set[str], report: Report, seen: Counter[str], videos: bool) -> None:
    planned = Counter(name for shard in plan.shards for name in shard.names)
    report.faults += [f'{plan_name(plan.key)}: "{name}" is planned {num} times'
                      for name, num in planned.items() if num > 1]
    report.num_files += planned.total()
    report.num_shards += len(plan.shards)
    for shard in plan.shards:
        name = shard_name(plan.key, shard.number)
        if name not in shards:
            report.faults.append(f"{name} is not there: {len(shard.names)} files are not annotated yet; run the same "
                                 "command again")
            continue
        rows = _check_rows(folder, name, report, seen, videos)
        if rows is not None:
            _check_files(folder, name, shard.names, rows, report)


def _check_files(folder: str, name: str, files: tuple[str, ...], rows: "list[Row]", report: Report) -> None:
    """Check that a shard holds what its plan says, and of each file the clips that it was cut into."""
    try:
        cut: dict[str, list[str]] = json.loads(record_files.shard_metadata(storage.join(folder, name))["clips"])
    except (KeyError, ValueError):
        report.faults.append(f"{name} was not written by annotate: it does not tell its files")
        return
    report.faults += [f'{name}: file "{file}" has no clip' for file in files if not cut.get(file)]
    report.faults += [f'{name}: file "{file}" is not in its plan' for file in cut if file not in files]
    told, there = Counter(clip for clips in cut.values() for clip in clips), Counter(row.clip_id for row in rows)
    report.faults += [f'{name}: clip "{clip}" is lost' for clip in told - there]
    report.faults += [f'{name}: clip "{clip}" is of no file' for clip in there - told]


def _check_rows(folder: str, name: str, report: Report, seen: Counter[str], videos: bool) -> "list[Row] | None":
    try:
        rows = record_files.read_shard(storage.join(folder, name))
    except (ValueError, OSError) as error:
        report.faults.append(f"{name} can't be read: {error}")
        return None
    for row in rows:
        seen[row.clip_id] += 1
        report.clips["failed" if isinstance(row, FailedClip) else "ok"] += 1
        faults = _record_faults(row) if isinstance(row, ClipRecord) else []
        # What has failed may have done so because its video is not there.
        if videos and isinstance(row, ClipRecord) and not storage.exists(storage.join(folder, row.video)):
            faults.append(f"its video {row.video} is not there")
        report.faults += [f'{name}: clip "{row.clip_id}": {fault}' for fault in faults]
    return rows


def _record_faults(record: ClipRecord) -> list[str]:
    return [f'"{entity.word}": {fault}' for entity in record.entities if (fault := _track_fault(record, entity))]


def _track_fault(record: ClipRecord, entity: Entity) -> str | None:
    """Return what is wrong with the first frame of a track that is not as its mask says, if there is one."""
    track = entity.track
    if not track.masks:
        return "it has no masks"
    for frame, text in enumerate(track.masks):
        try:
            mask = masks.decoded_mask(text, (record.width, record.height))
        except ValueError as error:
            return f"frame {frame}: {error}"
        area, box = int(mask.sum()), masks.box_of(mask)
        if area != track.areas[frame]:
            return f"frame {frame}: its area is {track.areas[frame]}, but its mask has {area} pixels"
        if box != track.boxes[frame]:
            return f"frame {frame}: its box is {track.boxes[frame]}, but that of its mask is {box}"
    return None
