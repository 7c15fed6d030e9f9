"""Annotation over a Ray cluster: one row a shard, one actor pool a stage, by the same parts as in this process.

    shards -> map(cut) -> map(stage) -> ... -> map(record, which writes the shard) -> counts

Different shards are at different stages at once, so that CPUs decode while GPUs infer. (Ray Data.)
"""

import logging
import pickle
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from alchemint import cluster, storage
from alchemint.annotate import shards
from alchemint.annotate.clip import Clip, Source
from alchemint.annotate.plan import Job
from alchemint.annotate.progress import Tally
from alchemint.annotate.shards import Row, Worker
from alchemint.annotate.stages import Stage

_TRIES = 3
"""How often a clip is begun before a worker that dies over it is taken for its failure."""

_SHARDS_A_WORKER = 2
"""How many shards are on their way for each worker: one at work, one that waits."""

_CPU_SHARE = 0.9
"""The share of the cluster's CPUs that all workers together ask for, at most."""


def run(job: Job, address: str, tally: Tally | None = None, num_workers: int | None = None,
        num_threads: int = 8) -> Tally:
    """Annotate over the Ray cluster at `address` ("local": this machine, "auto": found, or host:port) as `runner.run`
    does; the folder and the videos must be within reach of all machines.

    num_workers: actors of each stage that uses the CPU or a GPU; None: as many as the cluster has GPUs, or one. Stages
    that use a GPU share the cluster's equally. num_threads: clips that a stage that waits for a server has at once.

    Raises as `runner.run` does, and ValueError when ray is missing or no cluster answers.
    """
    tally = tally if tally is not None else Tally()
    job = replace(job, out=_anywhere(job.out),
                  sources=[replace(source, address=_anywhere(source.address)) for source in job.sources])
    sources = shards.pending_sources(job, tally)
    with cluster.joined(address) as ray:
        resources = ray.cluster_resources()
        pools = _pools(job, resources, num_workers, num_threads)
        tally.begin({pool.name: pool.num_actors * pool.num_threads for pool in pools})
        try:
            if sources:
                _gather(_dataset(ray, replace(job, sources=()), sources, pools), tally)
        finally:
            tally.end()
    return tally


@dataclass(frozen=True)
class _Pool:
    """The actors of a stage: how many, what each asks for of the cluster, and how many clips it has at once."""

    name: str
    stage: Stage | None
    num_actors: int
    num_cpus: float
    num_gpus: float
    num_threads: int
    is_last: bool


def _pools(job: Job, resources: dict[str, float], num_workers: int | None, num_threads: int) -> list[_Pool]:
    """Divide a cluster among the stages, so that all actors fit at once: the stages would wait for ever otherwise."""
    all_gpus = int(resources.get("GPU", 0))
    many = num_workers or all_gpus or 1
    steps: list[Stage | None] = [None, *job.steps]
    counts = [1 if step is not None and step.where == "network" else many for step in steps]
    num_cpus = min(1.0, _CPU_SHARE * resources["CPU"] / sum(counts))
    gpu_stages = sum(step is not None and step.where == "gpu" for step in steps)
    num_gpus = min(1.0, all_gpus / (gpu_stages * many)) if gpu_stages else 0.0
    return [
        _Pool(step.name if step else shards.CUT, step, count, num_cpus,
              num_gpus if step is not None and step.where == "gpu" else 0.0,
              num_threads if step is not None and step.where == "network" else 1, step is steps[-1])
        for step, count in zip(steps, counts, strict=True)]


def _dataset(ray: Any, job: Job, sources: dict[int, list[Source]], pools: list[_Pool]) -> Any:
    """Return the dataset whose rows are the counts of finished shards; the work is done as they are taken."""
    import ray.data as ray_data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray_data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # A shard of long videos may well take longer than the half hour after which Ray Data would give up.
    context.execution_no_progress_timeout_s = -1
    num_actors = sum(pool.num_actors for pool in pools)
    notes = ray.remote(num_cpus=0)(_Notes).remote(_SHARDS_A_WORKER * num_actors)
    items = [{"shard": number, "work": pickle.dumps(_Work(of_shard))} for number, of_shard in sources.items()]
    # One block a shard, so that each goes its way by itself.
    data: Any = ray_data.from_items(items, override_num_blocks=len(items))
    for pool in pools:
        data = data.map(
            _Actor, fn_constructor_args=(job, pool, notes), num_cpus=pool.num_cpus, num_gpus=pool.num_gpus,
            compute=ray_data.ActorPoolStrategy(size=pool.num_actors, max_tasks_in_flight_per_actor=2))
    return data


def _gather(data: Any, tally: Tally) -> None:
    """Take the counts of shards as these are finished. Raises what a worker could not go on after."""
    for row in data.iter_rows():
        done = pickle.loads(row["work"])
        if isinstance(done, BaseException):
            raise done
        tally.add(done)


@dataclass
class _Work:
    """A shard between two stages: its sources, what has become of each by its name, and the seconds of each stage."""

    sources: list[Source]
    made: dict[str, list[Clip | Row]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=partial(defaultdict, float))

    @property
    def rows(self) -> dict[str, list[Row]]:
        """What the last stage leaves of each source."""
        return {name: [row for row in made if isinstance(row, Row)] for name, made in self.made.items()}


class _Notes:
    """What all workers know of each other: which shards are on their way, and who has died over what."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._open: set[int] = set()
        self._tries: Counter[tuple[str, ...]] = Counter()

    def enter(self, shard: int) -> bool:
        """Let a shard in, unless there are too many already."""
        if shard not in self._open and len(self._open) >= self._room:
            return False
        self._open.add(shard)
        return True

    def leave(self, shard: int) -> None:
        """Note that a shard is finished."""
        self._open.discard(shard)

    def begin(self, *what: str) -> int:
        """Return how often something was begun, this time included, without having come to its end."""
        self._tries[what] += 1
        return self._tries[what]

    def end(self, *what: str) -> None:
        """Note that something has come to its end."""
        del self._tries[what]


class _Actor:
    """A stage on a cluster's machine: it takes a shard's clips one by one, as a thread in this process would."""

    def __init__(self, job: Job, pool: _Pool, notes: Any) -> None:
        self._job = job
        self._pool = pool
        self._notes = notes
        self._workers: list[Worker] = []
        self._idle: SimpleQueue[Worker] = SimpleQueue()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return a shard with more known of it: after the last stage what to count of it, as it is written by then."""
        work = pickle.loads(row["work"])
        if not isinstance(work, BaseException):
            try:
                work = self._advance(row["shard"], work)
            except Exception as error:  # told where the run is driven, and raised there
                work = _sendable(error)
        return {"shard": row["shard"], "work": pickle.dumps(work)}

    def _advance(self, shard: int, work: "_Work") -> "_Work | Tally":
        stage = self._pool.name
        if self._pool.stage is None:
            while not self._ask("enter", shard):
                time.sleep(0.1)
        self._load()
        # Where a worker has died over this shard, clips go one at a time, to find over which.
        tries = self._ask("begin", stage, str(shard))
        if tries > _TRIES * (1 + len(work.sources) + sum(map(len, work.made.values()))):
            raise shards.BrokenStageError(f"{stage}: its workers die again and again over shard {shard}; is there "
                                          "enough memory?")
        careful = tries > 1
        before = self._seconds()
        take = partial(self._carefully, shard) if careful else self._take
        with ThreadPoolExecutor(1 if careful else self._pool.num_threads) as threads:
            if self._pool.stage is None:
                work.made = {source.name: made if isinstance(made, list) else [made]
                             for source, made in zip(work.sources, threads.map(take, work.sources), strict=True)}
            else:
                work.made = {name: list(threads.map(take, clips)) for name, clips in work.made.items()}
        work.seconds[stage] += self._seconds() - before
        if self._pool.is_last:
            shards.write(self._job, shard, work.sources, work.rows)
            self._ask("leave", shard)
        self._ask("end", stage, str(shard))
        return _counted(work) if self._pool.is_last else work

    def _take(self, what: Source | Clip | Row) -> Any:
        if isinstance(what, Row):
            return what
        worker = self._idle.get()
        try:
            return worker.take(what)
        finally:
            self._idle.put(worker)

    def _carefully(self, shard: int, what: Source | Clip | Row) -> Any:
        """Take a clip, or make it a failure when workers have died over it again and again."""
        if isinstance(what, Row):
            return what
        stage, name = self._pool.name, what.name if isinstance(what, Source) else what.clip_id
        tries = self._ask("begin", stage, str(shard), name)
        if tries < _TRIES:
            made = self._take(what)
        else:
            made = shards.failed(self._job, what, stage, f"the worker died {tries} times")
        self._ask("end", stage, str(shard), name)
        return made

    def _load(self) -> None:
        """Load the stage, once for each thread, when the first shard comes."""
        if self._workers:
            return
        pool = self._pool
        if self._ask("begin", "load", pool.name) > _TRIES + pool.num_actors:
            raise shards.BrokenStageError(f"{pool.name}: workers die while they load their models; is there enough "
                                          "memory? Load them in this process, without --ray, to see more")
        for _ in range(pool.num_threads):
            new = shards.worker(self._job, pool.stage) if pool.stage else shards.cutter(self._job)
            self._workers.append(new)
            self._idle.put(new)
        self._ask("end", "load", pool.name)

    def _seconds(self) -> float:
        return sum(worker.seconds for worker in self._workers)

    def _ask(self, what: str, *args: Any) -> Any:
        """Call a method of the notes and wait for it: what was noted is known even if this process dies next."""
        import ray

        return ray.get(getattr(self._notes, what).remote(*args))


def _counted(work: _Work) -> Tally:
    tally = Tally(files_done=len(work.made), seconds=work.seconds)
    for rows in work.rows.values():
        for row in rows:
            tally.count(row)
    return tally


def _sendable(error: Exception) -> Exception:
    """Return an exception, or what it says where it can't be sent to another process."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever its class stumbles over
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _anywhere(address: str) -> str:
    """Return an address that does not depend on the folder a process runs in."""
    return address if storage.is_url(address) else str(Path(address).absolute())
