"""What does the framework of annotation cost, and what does it survive? Its models here only wait, as a GPU lets wait.

    python benchmarks/annotate.py [--ray]              # share of time outside the models; two workers against one
    python benchmarks/annotate.py --kills 20 [--ray]   # killed 20 times, then verified

Videos are small but real: all frames are decoded to cut them, and again for their tracks. What is compared
runs in turns.
"""

import argparse
import contextlib
import importlib
import multiprocessing
import multiprocessing.process
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from alchemint import cluster, media
from alchemint.annotate import over_ray, runner, verify
from alchemint.annotate.clip import Clip, Source
from alchemint.annotate.plan import Job
from alchemint.annotate.progress import Tally
from alchemint.annotate.stages import Stage
from alchemint.masks import track_of
from alchemint.records import ClipRecord, Dropped, Entity

WIDTH, HEIGHT, NUM_FRAMES, FPS = 64, 32, 16, 8.0
WAIT_S = 0.05


def write_videos(folder: Path, num: int) -> list[Source]:
    """Write small videos, of noise, and return them."""
    rng = np.random.default_rng(0)
    for number in range(num):
        frames = rng.integers(0, 255, (NUM_FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8)
        media.write_video(folder / f"clip-{number:03}.mp4", frames, FPS)
    return videos_in(folder)


def videos_in(folder: Path) -> list[Source]:
    """Return the videos of a folder."""
    return [Source(path.name, str(path)) for path in sorted(folder.glob("*.mp4"))]


def halves(source: Source) -> list[Clip]:
    """Cut a video in two, the later half first; all its frames are read."""
    frames, fps = media.read_video(source.address)
    facts = media.VideoFacts(fps, len(frames), WIDTH, HEIGHT)
    half = len(frames) // 2
    return [Clip(f"{Path(source.name).stem}-{first:03}", source, facts, first, half) for first in (half, 0)]


def waiting(name: str, wait_s: float = WAIT_S, where: str = "gpu") -> Stage:
    """Return a stage whose model waits."""
    return Stage(name, partial(_load_waiting, name, wait_s), where)


def _load_waiting(name: str, wait_s: float) -> Callable[[Clip], Clip]:
    def wait(clip: Clip) -> Clip:
        time.sleep(wait_s)
        return replace(clip, caption=f"{clip.caption} {name}".strip())

    return wait


def noise_record(clip: Clip) -> ClipRecord:
    """Return a record with one subject: where the noise is bright."""
    frames = media.read_frames(clip.source.address, range(clip.first_frame, clip.first_frame + clip.num_frames))
    track = track_of((frame.mean(2) > 127 for frame in frames), [1.0] * clip.num_frames)
    return ClipRecord(clip_id=clip.clip_id, source=clip.source.name, video=clip.source.address,
                      first_frame=clip.first_frame, fps=clip.facts.fps, num_frames=clip.num_frames, width=WIDTH,
                      height=HEIGHT, caption=clip.caption, dropped=(Dropped(word="fog", filter="area"),),
                      entities=(Entity(name="noise", word="noise", references=(), track=track),))


def new_job(videos: Sequence[Source], out: Path, stages: Sequence[Stage], num_files: int = 3) -> Job:
    """Return the job to annotate videos by such stages."""
    return Job(videos, str(out), "abc", num_files, halves, tuple(stages), noise_record)


def work(folder: Path, over: str | None = None) -> Tally:
    """Annotate the videos of `folder`/videos into `folder`/records by three stages that wait."""
    if hasattr(os, "setsid"):
        os.setsid()
    stages = [waiting("name", 0.03, "network"), waiting("find", 0.03, "cpu"), waiting("follow", 0.03, "cpu")]
    job = new_job(videos_in(folder / "videos"), folder / "records", stages)
    return over_ray.run(job, over, num_threads=4) if over else runner.run(job, num_threads=4)


@dataclass(frozen=True)
class Survived:
    """What `num_kills` kills left: how many of them hit a run at work, and what `verify` finds after a last run."""

    num_kills: int
    num_at_work: int
    report: verify.Report
    num_partial_files: int


def survive(folder: Path, num_kills: int, num_videos: int, over: str | None = None, seed: int = 0) -> Survived:
    """Kill runs on one folder at random moments, each with all of its processes; then let one end, and verify it.

    The first is killed as soon as it has written a shard; the moments of the others are drawn from one and a half times
    as long, their start included.
    """
    write_videos(folder / "videos", num_videos)
    generator, records = random.Random(seed), folder / "records"
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload([__name__])
    # The server loads all modules before it serves.
    first = server.Process(target=videos_in, args=(folder,))
    first.start()
    first.join()
    num_at_work, longest_s = 0, None
    for _ in range(num_kills):
        process = server.Process(target=work, args=(folder, over))
        began = time.monotonic()
        process.start()
        if longest_s is None:
            while process.is_alive() and not list(records.glob("clips-*")):
                time.sleep(0.01)
            longest_s = 1.5 * (time.monotonic() - began)
        else:
            process.join(generator.uniform(0, longest_s))
        if process.exitcode:
            raise RuntimeError(f"a run ended by itself, with status {process.exitcode}")
        num_at_work += process.is_alive()
        _kill(process)
    process = server.Process(target=work, args=(folder, over))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"the last run ended with status {process.exitcode}")
    return Survived(num_kills, num_at_work, verify.check(str(records)), len(list(records.glob(".*"))))


def _kill(process: multiprocessing.process.BaseProcess) -> None:
    """Kill a process and all that it has started."""
    assert process.pid is not None
    with contextlib.suppress(ProcessLookupError):
        # Until it has a group of its own, the process has started no other.
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()


@dataclass(frozen=True)
class Cost:
    """What a run took: seconds in all; from a quarter of its files on, when all is loaded and every stage has work, the
    share of the time in which the busiest model's workers did not run it, and files a second."""

    total_s: float
    outside: float
    files_per_s: float


def measure(videos: Sequence[Source], num_workers: int, over: str | None) -> Cost:
    """Annotate videos by three models, each with so many workers of its own; return what it cost.

    The models work side by side: without any framework the run would take as long as one of them.
    """
    names = "find", "follow", "compare"
    tally = Tally()
    moments: list[tuple[float, int, float]] = []
    over_now = threading.Event()

    def watch() -> None:
        while not over_now.wait(0.005):
            if tally.files_done >= len(videos) / 4 and (not moments or tally.files_done > moments[-1][1]):
                busiest = max(tally.seconds.get(name, 0.0) for name in names)
                moments.append((time.monotonic(), tally.files_done, busiest))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with tempfile.TemporaryDirectory() as out:
            job = new_job(videos, Path(out), [waiting(name) for name in names])
            if over:
                over_ray.run(job, over, tally, num_workers)
            else:
                runner.run(job, tally, num_workers)
    finally:
        over_now.set()
        watcher.join()
    assert not tally.clips["failed"], tally.failures
    (began, files, seconds), (ended, all_files, all_seconds) = moments[0], moments[-1]
    took_s = ended - began
    return Cost(tally.elapsed_s, 1 - (all_seconds - seconds) / num_workers / took_s, (all_files - files) / took_s)


def main() -> None:
    """Print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ray", action="store_true", help="over Ray on this machine, not in this process")
    parser.add_argument("--kills", type=int, help="kill so many runs, rather than measure")
    parser.add_argument("--num", type=int, help="videos, of two clips each (60; with --ray, which starts slowly, 200)")
    parser.add_argument("--repeat", type=int, default=3, help="how often to measure")
    options = parser.parse_args()
    over, num_videos = ("local", options.num or 200) if options.ray else (None, options.num or 60)
    with tempfile.TemporaryDirectory() as folder:
        if options.kills:
            survived = survive(Path(folder), options.kills, num_videos, over)
            print(f"{survived.num_kills} kills, {survived.num_at_work} of runs at work; "
                  f"{survived.num_partial_files} partial files left")
            print("\n".join(survived.report.lines()))
            return
        videos = write_videos(Path(folder) / "videos", num_videos)
        # One cluster for all runs: its start-up is no cost of a clip.
        with cluster.joined("local") if over else contextlib.nullcontext():
            for _ in range(options.repeat):
                one, two = (measure(videos, num_workers, over) for num_workers in (1, 2))
                print(f"one worker: {one.total_s:.2f} s, of the steady part {one.outside:.1%} outside the models; two: "
                      f"{two.total_s:.2f} s, {two.files_per_s / one.files_per_s:.2f} times as quick")


if __name__ == "__main__":
    # Other processes import what they are sent by its name: here and, through the environment, under Ray.
    sys.path.insert(0, str(Path(__file__).parents[1]))
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    importlib.import_module("benchmarks.annotate").main()
