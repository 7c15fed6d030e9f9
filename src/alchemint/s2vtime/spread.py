"""The same work in this process or over a Ray cluster: what is heavy is loaded where it is used, once each.

    make_videos(run, DeferredSystem(..., load=...), over_ray("auto"))
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from alchemint import cluster
from alchemint.s2vtime.runs import Mapper, Scorer
from alchemint.s2vtime.scoring import Row
from alchemint.s2vtime.suite import Entry
from alchemint.s2vtime.systems import Abilities, System, Video

_TRIES = 3
"""How often a video is begun before a worker that dies over it is taken for its failure."""


@dataclass
class DeferredSystem:
    """A system whose weights are loaded by `load` when the first video is made; until then it is small to send."""

    name: str
    abilities: Abilities
    settings: dict[str, Any]
    load: Callable[[], System] = field(repr=False)

    @cached_property
    def _system(self) -> System:
        return self.load()

    def make(self, entry: Entry) -> Video:
        """Return the video that the system makes."""
        return self._system.make(entry)


@dataclass
class DeferredJudge:
    """A judge whose models are loaded by `load` when the first video is scored; until then it is small to send."""

    name: str
    load: Callable[[], Scorer] = field(repr=False)

    @cached_property
    def _judge(self) -> Scorer:
        return self.load()

    def score_file(self, path: Path, entry: Entry) -> Row:
        """Return the judge's row."""
        return self._judge.score_file(path, entry)


def over_ray(address: str, num_workers: int | None = None) -> Mapper:
    """Return a mapper that spreads entries over the Ray cluster at `address` ("local": this machine, "auto": found).

    Each worker holds one GPU where the cluster has any, otherwise one CPU. `num_workers`: as many as the cluster holds
    when None. Run folders must be on a file system that all machines share. Raises ValueError when ray is missing or
    no cluster answers.
    """
    cluster.require_ray()

    def mapped(function: Callable[[Entry], Row], entries: list[Entry],
               lost: Callable[[Entry, str], Row]) -> Iterable[Row]:
        if not entries:
            return
        with cluster.joined(address) as ray:
            resources = ray.cluster_resources()
            room = int(resources.get("GPU") or resources["CPU"])
            count = min(num_workers or room, room, len(entries))
            actor: Any = (ray.remote(num_gpus=1) if resources.get("GPU") else ray.remote(num_cpus=1))(_Worker)
            yield from _gather(ray, lambda: actor.remote(function), count, entries, lost)

    return mapped


class _Worker:
    """What runs on a cluster's machine: one function, and what it loads upon its first entry."""

    def __init__(self, function: Callable[[Entry], Row]) -> None:
        self._function = function

    def run(self, entry: Entry) -> Row:
        """Apply the function."""
        return self._function(entry)


def _gather(ray: Any, new_worker: Callable[[], Any], num_workers: int, entries: list[Entry],
            lost: Callable[[Entry, str], Row]) -> Iterator[Row]:
    """Give each worker an entry at a time. An entry whose worker dies goes to the end of the queue, a few times."""
    waiting = [(entry, 1) for entry in entries]
    free = [new_worker() for _ in range(num_workers)]
    running: dict[Any, tuple[Any, Entry, int]] = {}
    while waiting or running:
        while free and waiting:
            worker, (entry, tries) = free.pop(), waiting.pop(0)
            running[worker.run.remote(entry)] = (worker, entry, tries)
        (done,), _ = ray.wait(list(running), num_returns=1)
        worker, entry, tries = running.pop(done)
        try:
            row = ray.get(done)
        except ray.exceptions.RayActorError as error:
            free.append(new_worker())
            if tries < _TRIES:
                waiting.append((entry, tries + 1))
            else:
                yield lost(entry, f"the worker died {tries} times: {str(error).splitlines()[0]}")
        else:
            free.append(worker)
            yield row
