"""The training loop: one process or several (`ranks`), any objective.

Nothing random is carried from step to step. Batch `step` comes from the dataset at index `step`, and the noise of a
step from a generator seeded with (seed, step); so a resumed run continues bit for bit from weights, moments and the
step number alone.
"""

import contextlib
import json
import logging
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from diffusers.training_utils import EMAModel
from torch import nn
from torch.utils.data import DataLoader, Dataset

from alchemint.training import checkpoint, ranks
from alchemint.training.optimizers import Optimizers
from alchemint.training.precision import autocast, pick_device
from alchemint.training.recipe import Optimizer, Run

logger = logging.getLogger(__name__)


class Objective(Protocol):
    """What is optimised. The loop knows nothing else of the models."""

    modules: dict[str, nn.Module]
    """The trained modules by the name that their files bear."""

    def parameter_groups(self, optimizer: Optimizer) -> list[dict[str, Any]]:
        """Return the parameters with their learning rates, in the form that torch optimizers take."""

    def matrices(self) -> list[nn.Parameter]:
        """Return the hidden weights that Muon may have, when the recipe asks for it."""

    def batches(self, num_steps: int) -> Dataset[Any]:
        """Return the dataset whose item `step` is the batch of that step, a tensor or what has a tensor's `to`."""

    def loss(self, batch: Any, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the scalar loss of a batch and what else is worth a look in the log."""

    def write_sheet(self, path: Path) -> None:
        """Draw what the modules, with the averaged weights in place, make of fixed examples."""

    def export(self, folder: Path) -> None:
        """Write the modules, with the averaged weights in place, in the format that users load."""


class _Stop:
    """Turns the first SIGTERM or Ctrl-C into a wish to stop at the next step."""

    def __init__(self) -> None:
        self.wished = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "_Stop":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._wish)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _wish(self, number: int, frame: FrameType | None) -> None:
        self.wished = True
        signal.signal(number, self._previous[number])


def _leave_signals_to_the_loop(worker: int) -> None:
    """Let a data worker live on when its whole process group is told to stop: Ctrl-C and torchrun do that."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def train(objective: Objective, output: Path, seed: int, optimizer_options: Optimizer, run: Run,
          fingerprint: str) -> checkpoint.Progress:
    """Train until `run.steps`, `run.max_minutes` or a stop signal, resuming from the newest checkpoint in `output`.

    Writes `<output>/log.jsonl`, contact sheets, checkpoints and, at the end, `<output>/export`. Raises
    FloatingPointError when the loss is no longer finite.
    """
    device = pick_device(run)
    if run.num_threads is not None:
        torch.set_num_threads(run.num_threads)
    for module in objective.modules.values():
        module.to(device).train()
    parameters = [parameter for module in objective.modules.values() for parameter in module.parameters()]
    optimizers = Optimizers(objective.parameter_groups(optimizer_options), objective.matrices(), optimizer_options)
    ema = EMAModel(parameters, decay=run.ema_decay, use_ema_warmup=True, inv_gamma=10, power=1.0, foreach=True)
    state = checkpoint.TrainedState(objective.modules, optimizers.members, ema)

    checkpoints = output / "checkpoints"
    progress = checkpoint.Progress(0, 0.0)
    if (found := checkpoint.latest(checkpoints)) is not None:
        progress = checkpoint.restore(found, state, fingerprint)
        logger.info("resumed from %s", found)

    loader = DataLoader(objective.batches(run.steps), batch_size=None, sampler=range(progress.step, run.steps),
                        num_workers=run.num_workers, multiprocessing_context="spawn" if run.num_workers else None,
                        worker_init_fn=_leave_signals_to_the_loop,
                        prefetch_factor=4 if run.num_workers else None)
    log = _Log(output / "log.jsonl", run) if ranks.is_first() else None
    rank, num_ranks = ranks.share()
    started = saved_at = time.monotonic()
    step, spent = progress.step, progress.seconds
    with _Stop() as stop, log or contextlib.nullcontext():
        for batch in loader:
            generator = torch.Generator(device).manual_seed((seed * 1_000_003 + step) * num_ranks + rank)
            with autocast(device, run):
                loss, details = objective.loss(batch.to(device, non_blocking=True), generator)
            loss.backward()
            out_of_time = run.max_minutes is not None and (
                progress.seconds + time.monotonic() - started >= 60 * run.max_minutes)
            wished = ranks.average_gradients(parameters, stop.wished or out_of_time)
            norm = nn.utils.clip_grad_norm_(parameters, optimizer_options.max_grad_norm)
            if not torch.isfinite(norm):
                raise FloatingPointError(f"step {step}: loss {loss.item():g}, gradient norm {norm.item():g}; "
                                         "lower the learning rate or resume from an older checkpoint")
            factor = learning_rate_factor(optimizer_options, step, run.steps)
            optimizers.step(factor)
            ema.step(parameters)
            step += 1
            spent = progress.seconds + time.monotonic() - started
            if log is not None:
                log.add(step, spent, {"loss": loss.detach(), "grad_norm": norm, **details}, {"lr_factor": factor})
            if ranks.is_first() and time.monotonic() - saved_at >= 60 * run.checkpoint_minutes:
                checkpoint.save(checkpoints, state, checkpoint.Progress(step, spent), fingerprint,
                                run.keep_checkpoints)
                saved_at = time.monotonic()
            if ranks.is_first() and step % run.sheet_every == 0:
                with averaged(ema, parameters, objective.modules):
                    objective.write_sheet(output / "sheets" / f"step-{step:08d}.png")
            if wished:
                break
    final = checkpoint.Progress(step, spent)
    if ranks.is_first():
        checkpoint.save(checkpoints, state, final, fingerprint, run.keep_checkpoints)
        with averaged(ema, parameters, objective.modules):
            objective.export(output / "export")
    ranks.wait()
    return final


def learning_rate_factor(options: Optimizer, step: int, num_steps: int) -> float:
    """Return the factor of the learning rate at `step`: linear warm-up, constant, linear decay to zero at the end."""
    warm = min(1.0, (step + 1) / max(1, options.warmup_steps))
    decay_steps = options.decay_share * num_steps
    return warm * (min(1.0, (num_steps - step) / decay_steps) if decay_steps else 1.0)


@contextlib.contextmanager
def averaged(ema: EMAModel, parameters: list[nn.Parameter], modules: dict[str, nn.Module]) -> Iterator[None]:
    """Put the averaged weights in place, in evaluation mode, for the time of the context."""
    ema.store(parameters)
    ema.copy_to(parameters)
    for module in modules.values():
        module.eval()
    try:
        yield
    finally:
        ema.restore(parameters)
        for module in modules.values():
            module.train()


class _Log:
    """Means over `log_every` steps, appended to a JSONL file and told to the logger."""

    def __init__(self, path: Path, run: Run) -> None:
        self._path = path
        self._run = run
        self._values: dict[str, list[torch.Tensor]] = {}
        self._mark: tuple[int, float] | None = None

    def __enter__(self) -> "_Log":
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("a", encoding="utf-8")
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def add(self, step: int, seconds: float, values: dict[str, torch.Tensor], extra: dict[str, float]) -> None:
        """Note the values of one step; write a row when `log_every` steps have come together."""
        self._mark = self._mark or (step - 1, seconds)
        for name, value in values.items():
            self._values.setdefault(name, []).append(value.detach())
        if step % self._run.log_every:
            return
        since, then = self._mark
        rate = (step - since) * self._run.batch_size / max(seconds - then, 1e-9)
        row = {"step": step, "seconds": round(seconds, 1), "samples_per_s": round(rate, 2), **extra,
               **{name: float(f"{torch.stack(held).float().mean().item():.6g}")
                  for name, held in self._values.items()}}
        self._values, self._mark = {}, (step, seconds)
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        remaining = (self._run.steps - step) * self._run.batch_size / rate / 60
        logger.info("step %d/%d  loss %.4f  %.1f samples/s  %.0f min left", step, self._run.steps, row["loss"], rate,
                    remaining)
