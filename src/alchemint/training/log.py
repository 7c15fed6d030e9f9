"""What a person sees of a run: rows of means in `log.jsonl`, lines in the terminal, curves in TensorBoard or wandb."""

import json
import logging
import resource
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from alchemint.training.recipe import Run

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pace:
    """Where a step's time went: seconds in all, of them seconds waiting for data, and the operations it took."""

    seconds: float
    data_seconds: float
    flops: float


class _Tracker(Protocol):
    def add(self, step: int, values: dict[str, float]) -> None: ...

    def close(self) -> None: ...


class Log:
    """Means over `log_every` steps.

    peak_flops: what this machine's matrix products reach, measured, in operations a second and process; against it
    model FLOPs utilisation (`mfu`) is counted. num_processes: how many work at once.
    """

    def __init__(self, folder: Path, run: Run, peak_flops: float, num_processes: int) -> None:
        self._folder = folder
        self._run = run
        self._peak_flops = peak_flops
        self._num_processes = num_processes
        self._values: dict[str, list[float]] = {}
        self._paces: list[Pace] = []

    def __enter__(self) -> "Log":
        self._folder.mkdir(parents=True, exist_ok=True)
        self._file = (self._folder / "log.jsonl").open("a", encoding="utf-8")
        self._trackers = [_TRACKERS[name](self._folder) for name in self._run.trackers]
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()
        for tracker in self._trackers:
            tracker.close()

    def add(self, step: int, seconds: float, values: dict[str, float], extra: dict[str, float], pace: Pace) -> None:
        """Take in one step; write a row when `log_every` steps have come together.

        seconds: time spent training so far. values: what is averaged over the steps; extra: what is not.
        """
        self._paces.append(pace)
        for name, value in values.items():
            self._values.setdefault(name, []).append(value)
        if step % self._run.log_every:
            return
        row = {**extra, **{name: float(f"{sum(held) / len(held):.6g}") for name, held in self._values.items()},
               **self._speed()}
        self._write({"step": step, "seconds": round(seconds, 1), **row})
        remaining = (self._run.steps - step) * self._run.batch_size / row["samples_per_s"] / 60
        mfu = f"  MFU {100 * row['mfu']:.0f} %" if "mfu" in row else ""
        logger.info("step %d/%d  loss %.4f  %.2f samples/s  step %.2f s, %.0f %% of it data%s  %.1f GB  %s left", step,
                    self._run.steps, row["loss"], row["samples_per_s"], row["step_s"], 100 * row["data_share"], mfu,
                    row["memory_gb"], _duration(remaining))
        self._values, self._paces = {}, []

    def note(self, step: int, values: dict[str, float]) -> None:
        """Write a row of what was measured at one step alone."""
        self._write({"step": step, **values})
        logger.info("step %d  %s", step, "  ".join(f"{name} {value:.3f}" for name, value in values.items()))

    def _speed(self) -> dict[str, float]:
        seconds = max(sum(pace.seconds for pace in self._paces), 1e-9)
        row = {"samples_per_s": round(len(self._paces) * self._run.batch_size / seconds, 3),
               "step_s": round(seconds / len(self._paces), 4),
               "data_share": round(sum(pace.data_seconds for pace in self._paces) / seconds, 4),
               "memory_gb": round(_memory_gb(), 2)}
        flops = sum(pace.flops for pace in self._paces)
        return {**row, "mfu": round(flops / seconds / self._peak_flops, 4)} if flops else row

    def _write(self, row: dict[str, float]) -> None:
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        values = {name: value for name, value in row.items() if name != "step"}
        for tracker in self._trackers:
            tracker.add(int(row["step"]), values)


class _TensorBoard:
    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(folder / "tensorboard")

    def add(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    def __init__(self, folder: Path) -> None:
        try:
            import wandb  # type: ignore[import-not-found]
        except ImportError:
            raise ValueError("run.trackers names wandb, which is not installed: pip install wandb") from None
        self._run = wandb.init(project="alchemint", dir=folder, name=folder.name, id=folder.name, resume="allow")

    def add(self, step: int, values: dict[str, float]) -> None:
        self._run.log(values, step=step)

    def close(self) -> None:
        self._run.finish()


_TRACKERS: dict[str, Callable[[Path], _Tracker]] = {"tensorboard": _TensorBoard, "wandb": _Wandb}


def _memory_gb() -> float:
    """Return the most memory used so far: the GPU's where there is one, otherwise the process's."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def _duration(minutes: float) -> str:
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
