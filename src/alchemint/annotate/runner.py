"""Annotation in this process: each stage has threads of its own, so that decoding, servers and models overlap.

    sources -> [cut] -> [stage] -> ... -> [record] -> rows -> shards

A clip on its way is small, and files enter only as others leave: that bounds the memory, whatever is slowest.
"""

import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from alchemint.annotate import shards
from alchemint.annotate.clip import Clip, Source
from alchemint.annotate.plan import Job
from alchemint.annotate.progress import Tally
from alchemint.annotate.shards import Row
from alchemint.annotate.stages import Stage
from alchemint.annotate.time_limit import interrupt

_FILES_A_WORKER = 2
"""How many files are on their way for each worker: one at work, one that waits."""

_PATIENCE_S = 1.0
"""How long threads may take to end when the run is broken off."""

Place = tuple[int, str]
"""A source by its shard's number and its name."""


def run(job: Job, tally: Tally | None = None, num_workers: int | None = None, num_threads: int = 8) -> Tally:
    """Annotate what a job's folder does not hold yet; return what was done, which `tally` tells while it goes on.

    num_workers: threads of each stage that uses the CPU or a GPU, each with its own models, in turns on all GPUs; None:
    one, and for a GPU's stages one to each GPU. num_threads: threads of each stage that waits for a server.

    Raises what loading a stage raises, ValueError for a folder of other records, `shards.BrokenStageError` when a stage
    fails over one clip after another. Finished shards stay, whatever ends the run.
    """
    tally = tally if tally is not None else Tally()
    sources = shards.pending_sources(job, tally)
    crew = _Crew(job, tally, num_workers, num_threads)
    tally.begin(crew.num_workers)
    try:
        if sources:
            crew.start()
            _drive(job, sources, crew, tally)
    except BaseException:
        crew.interrupt()
        raise
    finally:
        tally.end()
        crew.stop()
    return tally


def _drive(job: Job, sources: dict[int, list[Source]], crew: "_Crew", tally: Tally) -> None:
    """Let sources in as others leave, gather the rows, and write each shard when its last row is there."""
    waiting = [((number, source.name), source) for number, of_shard in sources.items() for source in of_shard]
    waiting.reverse()
    rows: dict[int, dict[str, list[Row]]] = {
        number: {source.name: [] for source in of_shard} for number, of_shard in sources.items()}
    files_left = {number: len(of_shard) for number, of_shard in sources.items()}
    clips_left: dict[Place, int] = defaultdict(int)
    on_their_way = 0
    while files_left:
        while waiting and on_their_way < crew.room:
            crew.feed(*waiting.pop())
            on_their_way += 1
        said = crew.said.get()
        if isinstance(said, BaseException):
            raise said
        clips_left[said.place] += said.num_clips
        number, name = said.place
        if said.row is not None:
            tally.count(said.row)
            rows[number][name].append(said.row)
            clips_left[said.place] -= 1
        if clips_left[said.place]:
            continue
        del clips_left[said.place]
        on_their_way -= 1
        tally.files_done += 1
        files_left[number] -= 1
        if not files_left[number]:
            del files_left[number]
            shards.write(job, number, sources[number], rows.pop(number))


@dataclass(frozen=True)
class _Said:
    """What a worker says of a source: that it has become so many clips, or that one of them has become a row."""

    place: Place
    num_clips: int = 0
    row: Row | None = None


class _Crew:
    """All threads, stage by stage, each stage with an inbox; what they say to the runner is in `said`."""

    def __init__(self, job: Job, tally: Tally, num_workers: int | None, num_threads: int) -> None:
        self.said: SimpleQueue[_Said | BaseException] = SimpleQueue()
        self._job = job
        self._tally = tally
        self._steps: tuple[Stage | None, ...] = (None, *job.steps)
        num_gpus = _num_gpus() if any(stage.where == "gpu" for stage in job.stages) else 0
        counts = {"network": num_threads, "cpu": num_workers or 1, "gpu": num_workers or num_gpus or 1}
        self.num_workers = {shards.CUT: num_workers or 1, **{step.name: counts[step.where] for step in job.steps}}
        self._num_gpus = num_gpus
        self._inboxes: list[SimpleQueue[tuple[Place, Source | Clip] | None]] = [SimpleQueue() for _ in self._steps]
        self._threads = [
            threading.Thread(target=self._serve, args=(number, worker), name=f"{name} {worker}", daemon=True)
            for number, (name, num) in enumerate(self.num_workers.items()) for worker in range(num)]
        self._lock = threading.Lock()
        self._loading = threading.Lock()
        self._stopping = False

    @property
    def room(self) -> int:
        """How many sources may be on their way."""
        return _FILES_A_WORKER * len(self._threads)

    def start(self) -> None:
        """Start all threads; each loads its models."""
        for thread in self._threads:
            thread.start()

    def feed(self, place: Place, source: Source) -> None:
        """Let a source in."""
        self._inboxes[0].put((place, source))

    def interrupt(self) -> None:
        """Have all threads end what they are doing."""
        self._stopping = True
        for thread in self._threads:
            if thread.is_alive() and thread.ident:
                interrupt(thread.ident)

    def stop(self) -> None:
        """End all threads; those that do not end soon are left behind."""
        for inbox, num in zip(self._inboxes, self.num_workers.values(), strict=True):
            for _ in range(num):
                inbox.put(None)
        until = time.monotonic() + _PATIENCE_S
        for thread in self._threads:
            if thread.ident:
                thread.join(max(0.0, until - time.monotonic()))

    def _serve(self, number: int, index: int) -> None:
        try:
            step = self._steps[number]
            if step is not None and step.where == "gpu" and self._num_gpus:
                _use_gpu(index % self._num_gpus)
            # transformers cannot load models in two threads at once: weights go missing.
            with self._loading:
                worker = shards.cutter(self._job) if step is None else shards.worker(self._job, step)
            while (item := self._inboxes[number].get()) is not None and not self._stopping:
                place, what = item
                before = worker.seconds
                made = worker.take(what)
                with self._lock:
                    self._tally.seconds[worker.name] += worker.seconds - before
                self._pass_on(number, place, made)
        except BaseException as error:  # told where the run is driven, and raised there
            self.said.put(error)

    def _pass_on(self, number: int, place: Place, made: Any) -> None:
        if isinstance(made, Clip):
            self._inboxes[number + 1].put((place, made))
        elif isinstance(made, list):
            # Said first, so that no clip can come to its end before its source is known to have several.
            self.said.put(_Said(place, len(made)))
            for clip in made:
                self._inboxes[1].put((place, clip))
        else:
            self.said.put(_Said(place, 1 if number == 0 else 0, made))


def _num_gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _use_gpu(number: int) -> None:
    """Make a GPU this thread's: "cuda" means it from now on."""
    import torch

    torch.cuda.set_device(number)
