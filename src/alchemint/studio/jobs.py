"""The job runner: a bounded queue before one worker, whose results outlive a restart.

States: queued -> running -> done | failed | cancelled. One thread makes the videos one after the other, as there is one
device; another looks at finished ones. Whoever wants to know of changes gives `on_change`, which is called with a
job's id from any thread.
"""

import logging
import secrets
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alchemint import storage
from alchemint.long_video import windows_of
from alchemint.storyboard import Storyboard
from alchemint.studio.incoming import size_of
from alchemint.studio.job import Job, JobOptions
from alchemint.studio.job_folder import JobFolder
from alchemint.studio.making import FILES, PREVIEW, VIDEO, CancelledError, Make, Order
from alchemint.studio.pictures import PictureStore
from alchemint.studio.refusal import RefusalError
from alchemint.studio.settings import Limits

logger = logging.getLogger(__name__)

STOPPED = "the server was stopped before the video was made; generate it again"


@dataclass
class _Waiting:
    """A job that has not ended, with what its maker needs."""

    job: Job
    order: Order
    cancelled: threading.Event


class JobRunner:
    """Takes storyboards, has their videos made one by one, and knows all results."""

    def __init__(self, folder: JobFolder, make: Make, pictures: PictureStore, limits: Limits, window: int,
                 on_change: Callable[[str], None] = lambda _: None) -> None:
        """window: the model's own number of frames, by which longer videos are cut."""
        self._folder, self._make, self._pictures, self._limits = folder, make, pictures, limits
        self._window, self._on_change = window, on_change
        self._changing = threading.Condition()
        self._jobs: dict[str, Job] = {}
        self._queue: deque[_Waiting] = deque()
        self._running: _Waiting | None = None
        self._num_changes, self._stopping = 0, False
        for job in folder.read_all():
            self._jobs[job.id] = job
            if not job.has_ended:
                job.state, job.faults = "cancelled", (STOPPED,)
                folder.clear_unfinished(job.id)
                job.files.clear()
                folder.write(job)
        self._looking = ThreadPoolExecutor(1, "studio-looking")
        self._worker = threading.Thread(target=self._work, name="studio-worker", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._worker.start()

    def stop(self, timeout_s: float = 3.0) -> None:
        """Cancel everything and wait for the worker, but not for a model that is still being loaded."""
        with self._changing:
            self._stopping = True
            for waiting in [*self._queue, *([self._running] if self._running else [])]:
                self._cancel(waiting, (STOPPED,))
            self._changing.notify_all()
        if self._worker.is_alive():
            self._worker.join(timeout_s)
        self._looking.shutdown(wait=False, cancel_futures=True)
        self._folder.close()

    def submit(self, document: dict[str, Any], board: Storyboard, options: JobOptions) -> list[dict[str, Any]]:
        """Queue a job for each variation; all of them or none.

        document: the storyboard with picture ids as images; board: the same, resolved. Raises RefusalError: 429 when
        the queue is full, 503 when the disk is or the server ends.
        """
        seeds = [secrets.randbelow(2**31) if options.seed is None else (options.seed + number) % 2**63
                 for number in range(options.variations)]
        if (free := shutil.disk_usage(self._folder.path).free) < self._limits.free_bytes:
            raise RefusalError(503, f"the disk has only {size_of(free)} left, but {size_of(self._limits.free_bytes)} "
                                    "are needed for another video; remove results")
        num_steps = options.steps * len(windows_of(board, self._window))
        with self._changing:
            if self._stopping:
                raise RefusalError(503, "the server is being stopped; start it again")
            if len(self._queue) + len(seeds) > self._limits.waiting:
                raise RefusalError(429, f"the queue holds {len(self._queue)} jobs and {len(seeds)} more are asked for, "
                                        f"but at most {self._limits.waiting} may wait; wait for one to end, or cancel "
                                        "one")
            added = [self._new(document, board, replace(options, seed=seed, variations=1), num_steps) for seed in seeds]
            try:
                added = [replace(waiting, order=self._written(waiting)) for waiting in added]
            except (OSError, ValueError) as error:
                for waiting in added:
                    self._folder.remove(waiting.job.id)
                raise RefusalError(503, f"the job cannot be written: {error}") from error
            for waiting in added:
                self._jobs[waiting.job.id] = waiting.job
                self._queue.append(waiting)
                self._changed(waiting.job)
            self._changing.notify_all()
            return [self._shown(waiting.job) for waiting in added]

    def get(self, job_id: str) -> dict[str, Any] | None:
        """Return a job as the API shows it; None when there is none."""
        with self._changing:
            job = self._jobs.get(job_id)
            return None if job is None else self._shown(job)

    def newest(self, limit: int) -> list[dict[str, Any]]:
        """Return the newest jobs, the newest first."""
        with self._changing:
            return [self._shown(self._jobs[name]) for name in sorted(self._jobs, reverse=True)[:limit]]

    def changed_since(self, number: int) -> list[str]:
        """Return the ids of the jobs that changed after change `number`, and of those that have not ended."""
        with self._changing:
            return [job.id for job in self._jobs.values() if job.changed > number or not job.has_ended]

    @property
    def num_changes(self) -> int:
        """The number of the latest change."""
        return self._num_changes

    def file(self, job_id: str, name: str) -> Path | None:
        """Return a file that a job has left; None when there is none of that name."""
        with self._changing:
            job = self._jobs.get(job_id)
            known = job is not None and name in FILES and name in job.files
        return self._folder.of(job_id) / name if known else None

    def cancel(self, job_id: str) -> bool:
        """Cancel a job that waits or runs; return whether it was one."""
        with self._changing:
            waiting = self._waiting(job_id)
            if waiting is not None:
                self._cancel(waiting, ())
            return waiting is not None

    def cancel_of(self, client: str) -> None:
        """Cancel the jobs of a tab that is gone, but for those that are to be kept."""
        with self._changing:
            for waiting in [*self._queue, *([self._running] if self._running else [])]:
                if waiting.job.options.client == client and not waiting.job.options.keep:
                    self._cancel(waiting, ("the tab that asked for the video was closed",))

    def remove(self, job_id: str) -> bool:
        """Remove a job that has ended with all that it made; return whether there was one."""
        with self._changing:
            job = self._jobs.get(job_id)
            if job is None or not job.has_ended:
                return False
            del self._jobs[job_id]
            self._folder.remove(job_id)
            self._num_changes += 1
            self._on_change(job_id)
            return True

    def wait_ended(self, job_id: str, timeout_s: float) -> bool:
        """Wait until a job has ended, or is gone; return whether it has."""
        def over() -> bool:
            job = self._jobs.get(job_id)
            return job is None or job.has_ended

        with self._changing:
            return self._changing.wait_for(over, timeout_s)

    # Below, whoever calls has the lock, but for the worker's thread.

    def _new(self, document: dict[str, Any], board: Storyboard, options: JobOptions, num_steps: int) -> _Waiting:
        assert options.seed is not None, "a job's seed is drawn"
        name = f"{datetime.now(UTC):%Y%m%d-%H%M%S-%f}-{secrets.token_hex(3)}"
        job = Job(name, options.seed, {**document, "seed": options.seed}, options, num_steps)
        board = board.model_copy(update={"seed": options.seed})
        order = Order(self._folder.of(name), board, options.steps, options.preview_every)
        return _Waiting(job, order, threading.Event())

    def _written(self, waiting: _Waiting) -> Order:
        """Write a new job; return its order with pictures of its own."""
        board = self._folder.create(waiting.job, waiting.order.storyboard, self._pictures)
        return replace(waiting.order, storyboard=board)

    def _shown(self, job: Job) -> dict[str, Any]:
        place = 0 if job.state == "running" else None
        if job.state == "queued":
            place = 1 + next(number for number, waiting in enumerate(self._queue) if waiting.job is job)
        return job.to_wire(place)

    def _waiting(self, job_id: str) -> _Waiting | None:
        if self._running is not None and self._running.job.id == job_id:
            return self._running
        return next((waiting for waiting in self._queue if waiting.job.id == job_id), None)

    def _cancel(self, waiting: _Waiting, faults: Sequence[str]) -> None:
        if not waiting.cancelled.is_set():
            waiting.job.faults = tuple(faults)
        waiting.cancelled.set()
        if waiting in self._queue:
            self._queue.remove(waiting)
            self._end(waiting.job, "cancelled", waiting.job.faults)
            for other in self._queue:  # some move up
                self._changed(other.job)

    def _end(self, job: Job, state: Any, faults: Sequence[str]) -> None:
        job.state, job.faults = state, tuple(faults)
        if state == "done":
            job.files = {name for name in FILES if (self._folder.of(job.id) / name).is_file()}
        else:
            self._folder.clear_unfinished(job.id)
            job.files = set()
        self._write(job)
        self._changed(job)
        self._changing.notify_all()

    def _write(self, job: Job) -> None:
        try:
            self._folder.write(job)
        except OSError as error:  # a full disk must not end the worker
            logger.error("job %s cannot be written: %s", job.id, error)

    def _changed(self, job: Job) -> None:
        self._num_changes += 1
        job.changed = self._num_changes
        self._on_change(job.id)

    def _work(self) -> None:
        try:
            self._make.prepare()
        except Exception:  # each job tells of it again
            logger.exception("the model could not be loaded")
        while True:
            with self._changing:
                self._changing.wait_for(lambda: self._queue or self._stopping)
                if self._stopping:
                    return
                self._running = waiting = self._queue.popleft()
                waiting.job.state = "running"
                for other in (waiting, *self._queue):
                    self._changed(other.job)
            self._run(waiting)
            del waiting  # the model's memory must not hang on a job that has ended

    def _run(self, waiting: _Waiting) -> None:
        job, state, faults = waiting.job, "failed", tuple[str, ...]()
        try:
            made = self._make(waiting.order, _Progress(self, waiting))
            if not (waiting.order.folder / VIDEO).is_file():
                raise ValueError("nothing was made; see the server's log")
            state = "done"
            job.attention = made.attention
        except CancelledError:
            state = "cancelled"
        except (ValueError, OSError) as error:
            faults = tuple(line for line in str(error).splitlines() if line.strip()) or (type(error).__name__,)
        except Exception as error:  # whatever a model stumbles over, the server stays up
            logger.exception("job %s failed", job.id)
            faults = (f"the video could not be made: {type(error).__name__}: {str(error)[:300]}",)
        with self._changing:
            self._running = None
            self._end(job, state, faults or job.faults)
        if state == "done":
            self._looking.submit(self._look, job, waiting.order)

    def _look(self, job: Job, order: Order) -> None:
        try:
            seen = self._make.look(order)
        except Exception:  # the video is there all the same
            logger.exception("nobody could look at the video of job %s", job.id)
            return
        with self._changing:
            if job.id in self._jobs:
                job.seen = seen
                job.files |= {name for name in FILES if (order.folder / name).is_file()}
                self._write(job)
                self._changed(job)

    def _advance(self, waiting: _Waiting, step: int, step_s: float | None) -> None:
        with self._changing:
            waiting.job.step, waiting.job.step_s = step, step_s
            self._changed(waiting.job)

    def _preview(self, waiting: _Waiting, png: bytes) -> None:
        storage.write_bytes(waiting.order.folder / PREVIEW, png)
        with self._changing:
            waiting.job.files.add(PREVIEW)
            waiting.job.preview_step = waiting.job.step
            self._changed(waiting.job)


class _Progress:
    """What a maker sees of the runner."""

    def __init__(self, runner: JobRunner, waiting: _Waiting) -> None:
        self._runner, self._waiting = runner, waiting
        self._begun, self._first = time.perf_counter(), 0.0

    def check(self) -> None:
        if self._waiting.cancelled.is_set():
            raise CancelledError

    def step(self, number: int) -> None:
        now = time.perf_counter()
        # The first step comes with all that goes before it.
        self._first = self._first or now
        step_s = (now - self._first) / (number - 1) if number > 1 else now - self._begun
        self._runner._advance(self._waiting, number, step_s)
        self.check()

    def preview(self, png: bytes) -> None:
        self._runner._preview(self._waiting, png)
