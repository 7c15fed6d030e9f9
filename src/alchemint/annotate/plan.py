"""The plan of an annotation: which video files go into which shard, frozen when it is first made.

    <out>/plan-<key>.jsonl              one line of settings, then one line a shard: the names of its files
    <out>/clips-<key>-00000.parquet     the rows of a shard, which appears whole or not at all

A shard whose file exists is done, unless other things are said of its files by now: then it is made anew. Files that
come later make new shards; none is ever moved.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from operator import attrgetter
from typing import Any

from alchemint import record_files, storage
from alchemint.annotate.clip import Clip, Source
from alchemint.annotate.stages import Stage
from alchemint.records import ClipRecord

_NUM_READERS = 32

_PLAN_NAME = re.compile(r"plan-([^-]+)\.jsonl")


@dataclass(frozen=True)
class Job:
    """What a runner is to do. Functions must be picklable by cloudpickle and addresses absolute, for other machines.

    out: the folder of records, a path or a URL of fsspec. key: names the settings on which rows depend; `settings` are
    these, by which a change is told. num_files: how many video files make a shard. cut: gives a source's clips.
    row_of: makes the record of a clip that has passed all stages. video_of: how a row names its source's video. retry:
    whether shards with failed clips are made anew. limit_s: how many seconds a stage may take over a clip, and cutting
    over a file; None: as long as it takes. Stages that wait for a server have their client's own limit. root: the
    folder in which names of sources are what they are; another one's files may have the same names.

    Rows must be the same whenever and wherever they are made: no times, no host names.
    """

    sources: Sequence[Source]
    out: str
    key: str
    num_files: int
    cut: Callable[[Source], list[Clip]]
    stages: Sequence[Stage]
    row_of: Callable[[Clip], ClipRecord]
    video_of: Callable[[Source], str] = attrgetter("address")
    settings: Mapping[str, Any] = field(default_factory=dict)
    limit_s: float | None = None
    retry: bool = False
    root: str = ""

    @property
    def steps(self) -> tuple[Stage, ...]:
        """The stages a clip goes through, the last of which makes its record."""
        return *self.stages, Stage("record", self._load_row_of)

    @cached_property
    def known(self) -> dict[str, Source]:
        """The sources by their names."""
        return {source.name: source for source in self.sources}

    def _load_row_of(self) -> Callable[[Clip], Any]:
        return self.row_of


@dataclass(frozen=True)
class Shard:
    """A shard by its number, with the names of its video files."""

    number: int
    names: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """All shards that were ever planned under a key, and the settings that the key names."""

    key: str
    shards: tuple[Shard, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    root: str = ""


def plan_name(key: str) -> str:
    """Return the name of a plan's file."""
    return f"plan-{key}.jsonl"


def shard_name(key: str, number: int) -> str:
    """Return the name of a shard's file."""
    return f"clips-{key}-{number:05}.parquet"


def make_plan(job: Job) -> tuple[Plan, list[Shard]]:
    """Make or extend the plan of a job and write it; return it and the shards that are still to be made.

    Raises ValueError when two sources have one name, or when the folder holds records that other settings have made:
    training would read both.
    """
    names = [source.name for source in job.sources]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f'two video files are called "{twice}"; give each its own name')
    there = _names_in(job.out)
    _refuse_others(job, there)
    known = read_plan(job.out, job.key) if plan_name(job.key) in there else Plan(
        job.key, (), job.settings, job.root)
    if known.root != job.root:
        raise ValueError(f"{job.out} holds records of the videos in {known.root}, not of those in {job.root}, whose "
                         "names would be taken for theirs; give another folder for these")
    planned = {name for shard in known.shards for name in shard.names}
    new = [name for name in names if name not in planned]
    added = tuple(Shard(len(known.shards) + place, tuple(new[first:first + job.num_files]))
                  for place, first in enumerate(range(0, len(new), job.num_files)))
    plan = Plan(job.key, known.shards + added, known.settings, known.root)
    if added:
        write_plan(job.out, plan)
    with ThreadPoolExecutor(_NUM_READERS) as readers:
        done = readers.map(lambda shard: _is_done(job, shard, there), plan.shards)
        return plan, [shard for shard, is_done in zip(plan.shards, done, strict=True) if not is_done]


def given_digest(sources: Sequence[Source]) -> str:
    """Return a hash of what is said of sources: captions, timed captions, parts; and whether they are there."""
    said = [(source.name, bool(source.address),
             [(given.caption, [(event.during, event.text) for event in given.events], given.during)
              for given in source.given]) for source in sources]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]


def _is_done(job: Job, shard: Shard, there: set[str]) -> bool:
    name = shard_name(job.key, shard.number)
    if name not in there:
        return False
    try:
        metadata = record_files.shard_metadata(storage.join(job.out, name))
    except ValueError:
        return False  # not whole, whatever has happened to it
    sources = [job.known[name] for name in shard.names if name in job.known]
    if len(sources) < len(shard.names):
        return True  # of files that have gone nothing is said any more; what is known of them stays
    if job.retry and metadata.get("failed", "0") != "0":
        return False
    return metadata.get("given") == given_digest(sources)


def write_plan(out: str, plan: Plan) -> None:
    """Write a plan's file, whole or not at all."""
    lines: list[Any] = [{"key": plan.key, "root": plan.root, "settings": plan.settings}]
    lines += [{"shard": shard.number, "files": shard.names} for shard in plan.shards]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    address = storage.join(out, plan_name(plan.key))
    try:
        storage.write_text(address, text)
    except FileNotFoundError:
        # Another run on the folder was quicker, and cleared away what it took for a killed run's.
        if not storage.exists(address):
            raise


def read_plan(out: str, key: str) -> Plan:
    """Read a plan's file. Raises FileNotFoundError, or ValueError for one that is no plan."""
    address = storage.join(out, plan_name(key))
    try:
        head, *lines = map(json.loads, storage.read_bytes(address).decode().splitlines())
        shards = tuple(Shard(line["shard"], tuple(line["files"])) for line in lines)
        return Plan(head["key"], shards, head["settings"], head["root"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{address} is no plan of an annotation ({type(error).__name__}: {error}); "
                         "take another folder, or delete it and the shards beside it") from error


def keys_of(names: Sequence[str]) -> list[str]:
    """Return the keys of the plans among a folder's files."""
    return [match[1] for name in names if (match := _PLAN_NAME.fullmatch(name))]


def _names_in(out: str) -> set[str]:
    try:
        return set(storage.file_names(out))
    except FileNotFoundError:
        return set()


def _refuse_others(job: Job, names: set[str]) -> None:
    own = re.compile(rf"clips-{re.escape(job.key)}-\d+\.parquet")
    others = sorted(name for name in names if name.endswith(".parquet") and not own.fullmatch(name))
    if not others:
        return
    changes = [change for key in keys_of(sorted(names)) if key != job.key
               for change in _changes(read_plan(job.out, key).settings, job.settings)]
    because = f" ({'; '.join(changes[:8])})" if changes else ""
    raise ValueError(f"{job.out} holds records that were made by other settings{because}, as {others[0]}; training "
                     "would read both: give another folder, or delete them")


def _changes(old: Mapping[str, Any], new: Mapping[str, Any], within: str = "") -> list[str]:
    """Return how settings differ, as "section.name: old, now new"."""
    found = []
    for name in dict.fromkeys([*old, *new]):
        before, after = old.get(name), new.get(name)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found += _changes(before, after, f"{within}{name}.")
        elif before != after:
            found.append(f"{within}{name}: {before}, now {after}")
    return found
