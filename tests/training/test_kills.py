"""Runs that are killed at any moment, or told to stop: what is resumed is the unbroken run, to the last bit."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from alchemint.training import checkpoint
from alchemint.training.recipe import TransformerRecipe

STEPS = 100
KILLS = {"starting": 4, "stepping": 8, "saving": 7}
"""Where runs are killed, and how often; once more while the last one exports."""

CLOCK = ("seconds", "samples_per_s", "step_s", "data_share", "memory_gb", "mfu")

PARENT = """
import os, sys, traceback
from pathlib import Path
from alchemint.cli.train import train
from alchemint.training import loop, transformer

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            train(Path(line.strip()), [])
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Imports what a run needs, which takes several seconds, once; each run is a process of its own."""


@dataclass
class Parent:
    """A process that starts a run for each recipe file it is told."""

    process: subprocess.Popen[str]

    def start(self, recipe: Path) -> int:
        """Start a run and return its process."""
        stdin, stdout = self._pipes()
        stdin.write(f"{recipe}\n")
        stdin.flush()
        return int(stdout.readline())

    def wait(self) -> int:
        """Return the status of the run that was started, minus the signal for one that was killed."""
        return int(self._pipes()[1].readline())

    def _pipes(self) -> tuple[IO[str], IO[str]]:
        assert self.process.stdin is not None and self.process.stdout is not None
        return self.process.stdin, self.process.stdout


@contextmanager
def new_parent() -> Iterator[Parent]:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True, start_new_session=True) as process:
        try:
            yield Parent(process)
        finally:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture
def new_run(transformer_recipe: Callable[..., TransformerRecipe], tmp_path: Path) -> Callable[[str, int], Path]:
    """A function that writes a recipe, of which every step is followed by a checkpoint, and returns its file."""

    def write(name: str, steps: int) -> Path:
        run = {"steps": steps, "checkpoint_minutes": 1e-9, "num_threads": 1, "trackers": ()}
        recipe = transformer_recipe(output=tmp_path / name, run=run, optimizer={"muon_lr": 0.02})
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
        return file

    return write


def checkpoints(output: Path) -> list[Path]:
    """The folders that count as checkpoints."""
    return sorted(path for path in (output / "checkpoints").glob("step-????????") if (path / "state.json").is_file())


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a folder, by file and name; reading fails where a file is cut short."""
    return {f"{path.relative_to(folder)}/{name}": tensor for path in folder.rglob("*.safetensors")
            for name, tensor in load_file(path).items()}


def rows_of(output: Path) -> dict[int, dict[str, float]]:
    """The log's rows by step without what the clock decides; what was done twice must have come out the same."""
    rows: dict[int, dict[str, float]] = {}
    for line in (output / "log.jsonl").read_text().splitlines():
        row = {name: value for name, value in json.loads(line).items() if name not in CLOCK}
        assert rows.setdefault(int(row["step"]), row) == row
    return rows


def wait_for(happened: Callable[[], bool], seconds: float = 60.0) -> None:
    """Look again and again, without a pause, so that a passing moment is seen."""
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it never came"
        time.sleep(1e-4)


def kill_once(pid: int, kind: str, output: Path, random: np.random.Generator) -> None:
    """Kill a run that has just been started: before its first step is over, between steps, or while it writes."""
    log, folder = output / "log.jsonl", output / "checkpoints"
    begun, num_bytes, left = time.monotonic(), size(log), set(folder.glob("*.partial"))
    if kind == "starting":
        pause = float(random.uniform(0, 1.5))
        wait_for(lambda: time.monotonic() - begun > pause or size(log) > num_bytes)
    elif kind == "exporting":
        wait_for((output / "export").exists)
    else:
        for _ in range(int(random.integers(1, 7 if kind == "stepping" else 4))):
            wait_for(lambda seen=num_bytes: size(log) > seen)
            num_bytes = size(log)
        if kind == "saving":
            wait_for(lambda: any(path not in left for path in folder.glob("*.partial")))
        time.sleep(float(random.uniform(0, 0.03)))
    os.kill(pid, signal.SIGKILL)


def size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


@pytest.mark.slow
def test_twenty_kills_change_nothing(new_run: Callable[[str, int], Path], tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    with new_parent() as parent:
        parent.start(new_run("whole", STEPS))
        assert parent.wait() == 0
        names = {name.split("/", 1)[1] for name in tensors(checkpoints(whole)[-1])}

        recipe, reached, cut_off = new_run("killed", STEPS), 0, 0
        kinds = random.permutation([kind for kind, count in KILLS.items() for _ in range(count)])
        for kind in [*kinds, "exporting"]:
            assert reached < STEPS
            pid = parent.start(recipe)
            kill_once(pid, kind, killed, random)
            assert parent.wait() == -signal.SIGKILL, "the run had ended before it was killed"
            cut_off += any((killed / "checkpoints").glob("*.partial"))
            saved = checkpoints(killed)
            for path in saved:
                assert {name.split("/", 1)[1] for name in tensors(path)} == names
            newest = json.loads((saved[-1] / "state.json").read_text())["step"] if saved else 0
            assert newest >= reached
            reached = newest
        assert cut_off >= 3, "kills hardly ever fell into the writing of a checkpoint"
        assert reached == STEPS
        parent.start(recipe)
        assert parent.wait() == 0

    assert sorted(path.name for path in (killed / "checkpoints").iterdir()) == [
        f"step-{step:08d}" for step in (STEPS - 1, STEPS)]
    for one, other in ((checkpoints(killed)[-1], checkpoints(whole)[-1]), (killed / "export", whole / "export")):
        made, expected = tensors(one), tensors(other)
        assert made.keys() == expected.keys() and len(made) > 10
        assert all(torch.equal(tensor, expected[name]) for name, tensor in made.items())
    assert rows_of(killed) == rows_of(whole)
    assert sorted(rows_of(whole)) == list(range(1, STEPS + 1))


@contextmanager
def started(recipe: Path, *overrides: str) -> Iterator["subprocess.Popen[str]"]:
    """The command in a process of its own, that heeds Ctrl-C although who runs the tests may not."""
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen([sys.executable, "-m", "alchemint", "train", str(recipe), *overrides],
                          stderr=subprocess.PIPE, text=True, preexec_fn=heed) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_told_to_stop_ends_at_a_checkpoint(
    new_run: Callable[[str, int], Path], tmp_path: Path, number: signal.Signals
) -> None:
    recipe, output = new_run("run", 100_000), tmp_path / "run"
    with started(recipe, "run.checkpoint_minutes=60") as process:
        wait_for(lambda: size(output / "log.jsonl") > 0)
        process.send_signal(number)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 0
    assert "error" not in said and "Traceback" not in said
    rows = rows_of(output)
    (found,) = checkpoints(output)
    assert found.name == f"step-{max(rows):08d}"
    assert checkpoint.latest(output / "checkpoints") == found
    assert (output / "export" / "model_index.json").is_file()
    assert not list(output.rglob("*.partial"))


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status", "said"), [
    (signal.SIGINT, 130, "interrupted\n"), (signal.SIGTERM, 143, "")])
def test_a_run_that_is_told_to_stop_before_it_begins_ends_at_once(
    tmp_path: Path, number: signal.Signals, status: int, said: str
) -> None:
    """While it waits for its recipe, which is a pipe that nobody writes to."""
    os.mkfifo(tmp_path / "recipe.yaml")
    writer: list[int] = []

    def is_read() -> bool:
        try:
            writer.append(os.open(tmp_path / "recipe.yaml", os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            return False
        return True

    with started(tmp_path / "recipe.yaml") as process:
        wait_for(is_read)
        # A signal that comes between Python's last look for one and its read of the pipe is not seen until that ends.
        for _ in range(6):
            process.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=10)
                break
        assert process.communicate(timeout=10)[1] == said
    os.close(writer[0])
    assert process.returncode == status
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]
