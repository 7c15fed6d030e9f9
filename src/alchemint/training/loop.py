"""The training loop: one process or several (`ranks`), any objective.

Nothing random is carried from step to step. Batch `step` comes from the dataset at index `step`, and the noise of a
sample from a generator seeded with (seed, step, sample); so a resumed run continues bit for bit from weights, moments
and the step number alone.
"""

import contextlib
import dataclasses
import json
import logging
import math
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader, Dataset

from alchemint.data.interleaved import Interleaved
from alchemint.training import checkpoint
from alchemint.training.average import Average
from alchemint.training.disk import check_disk
from alchemint.training.draws import Draws
from alchemint.training.log import Log, Pace
from alchemint.training.optimizers import Optimizers
from alchemint.training.precision import autocast, matmul_dtype, matmul_rate, pick_device, uses_bfloat16
from alchemint.training.ranks import ALONE, Ranks
from alchemint.training.recipe import Optimizer, Recipe, fingerprint
from alchemint.training.sharding import full, named_trained, set_gradient_sync

logger = logging.getLogger(__name__)

Share = tuple[int, int]
"""Which part of every batch is wanted, and how many parts there are."""

_SETTLING_STEPS = 20
"""Steps before a loss is compared with the mean of those before it."""


class Objective(Protocol):
    """What is optimised. The loop knows nothing else of the models."""

    modules: dict[str, nn.Module]
    """The trained modules by the name that their files bear."""

    def place(self, device: torch.device, ranks: Ranks, bfloat16: bool) -> None:
        """Bring the modules, and what they need beside them, to the device, in shards where `ranks` says so."""

    def parameter_groups(self, optimizer: Optimizer) -> list[dict[str, Any]]:
        """Return the parameters with their learning rates, in the form that torch optimizers take."""

    def matrices(self) -> list[nn.Parameter]:
        """Return the hidden weights that Muon may have, when the recipe asks for it."""

    def batches(self, num_steps: int, share: Share) -> Dataset[Any]:
        """Return the dataset whose item `step` is this part of the step's batch: a tensor or what has a tensor's `to`.

        A dataset may have `heaviest`, the number of the item that needs the most memory; it is tried before all else.
        """

    def loss(self, batch: Any, draws: Draws) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the scalar loss of a part of a batch and what else is worth a look in the log."""

    def flops(self, batch: Any) -> float:
        """Return how many floating-point operations forward and backward pass of a batch take; 0 when not known."""

    def write_sheet(self, path: Path) -> dict[str, float]:
        """Draw what the modules, with the averaged weights in place, make of fixed examples; return what was measured
        on them."""

    def export(self, folder: Path) -> None:
        """Write the modules, with the averaged weights in place, in the format that users load.

        All processes call it where a forward pass or a whole weight needs them all; only the first writes.
        """


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


def train(objective: Objective, recipe: Recipe, ranks: Ranks = ALONE) -> checkpoint.Progress:
    """Train until `run.steps`, `run.max_minutes` or a stop signal, resuming from the newest checkpoint in `output`.

    Writes `<output>/log.jsonl`, contact sheets, checkpoints and, at the end, `<output>/export`. Raises
    FloatingPointError, with the batch saved, when the loss explodes or is no longer finite, and ValueError at once for
    what could not have gone well.
    """
    return _Training(objective, recipe, ranks).run()


def rehearse(objective: Objective, recipe: Recipe, ranks: Ranks = ALONE) -> None:
    """Take all steps of a run from its beginning, and log them, as `train` does, but leave no weights behind: no
    checkpoint at the end, no export. For measurements."""
    _Training(objective, recipe, ranks).take_steps(checkpoint.Progress(0, 0.0))


class _Training:
    """What a run holds while it lasts."""

    def __init__(self, objective: Objective, recipe: Recipe, ranks: Ranks) -> None:
        self._objective, self._ranks = objective, ranks
        self._recipe, self._run, self._output = recipe, recipe.run, recipe.output
        self._device = pick_device(self._run)
        if self._run.num_threads is not None:
            torch.set_num_threads(self._run.num_threads)
        objective.place(self._device, ranks, uses_bfloat16(self._device, self._run))
        for module in objective.modules.values():
            module.train()
        named = dict(named_trained(objective.modules))
        self._parameters = list(named.values())
        self._optimizers = Optimizers(objective.parameter_groups(recipe.optimizer), objective.matrices(),
                                      recipe.optimizer)
        self._average = Average(self._parameters, self._run.ema_decay)
        self._state = checkpoint.TrainedState(named, self._optimizers, self._average)
        self._checkpoints = self._output / "checkpoints"
        self._fingerprint = fingerprint(recipe)
        self._usual_loss = _Mean()

    def run(self) -> checkpoint.Progress:
        """Resume, train and export."""
        check_disk(self._output, self._parameters, self._run.keep_checkpoints, self._ranks)
        progress = checkpoint.Progress(0, 0.0)
        if (found := checkpoint.latest(self._checkpoints)) is not None:
            progress = checkpoint.restore(found, self._state, self._fingerprint, self._ranks)
            logger.info("resumed from %s", found)
        final = self.take_steps(progress)
        checkpoint.save(self._checkpoints, self._state, final, self._fingerprint, self._run.keep_checkpoints,
                        self._ranks)
        if self._ranks.is_first or self._ranks.work_as_one:
            with self._average.in_place(self._objective.modules):
                self._objective.export(self._output / "export")
        self._ranks.wait()
        return final

    def take_steps(self, progress: checkpoint.Progress) -> checkpoint.Progress:
        """Take the steps that are left; return how far it came."""
        run = self._run
        dataset = self._dataset()
        self._try_heaviest(dataset)
        loader = DataLoader(dataset, batch_size=None, num_workers=run.num_workers,
                            sampler=range(progress.step * run.accumulate, run.steps * run.accumulate),
                            multiprocessing_context="spawn" if run.num_workers else None,
                            worker_init_fn=_leave_signals_to_the_loop, prefetch_factor=4 if run.num_workers else None)
        started = saved_at = time.monotonic()
        step, spent = progress.step, progress.seconds
        with _Stop() as stop, self._log() as log:
            batches = iter(loader)
            while step < run.steps:
                factor = learning_rate_factor(self._recipe.optimizer, step, run.steps)
                values, pace = self._step(batches, step, factor)
                step += 1
                now = time.monotonic()
                spent = progress.seconds + now - started
                out_of_time = run.max_minutes is not None and spent >= 60 * run.max_minutes
                # Every process must do the same: what one wishes, all do; the first one's clock says when to save.
                wished, save_due = self._any(stop.wished or out_of_time,
                                             self._ranks.is_first and now - saved_at >= 60 * run.checkpoint_minutes)
                if log is not None:
                    log.add(step, spent, values, {"lr_factor": factor}, pace)
                if save_due:
                    checkpoint.save(self._checkpoints, self._state, checkpoint.Progress(step, spent),
                                    self._fingerprint, run.keep_checkpoints, self._ranks)
                    saved_at = time.monotonic()
                if step % run.sheet_every == 0:
                    self._write_sheet(step, log)
                if wished:
                    logger.info("stopped at step %d of %d; the same command goes on from here", step, run.steps)
                    break
        return checkpoint.Progress(step, spent)

    def _step(self, batches: Iterator[Any], step: int, factor: float) -> tuple[dict[str, float], Pace]:
        """Take one optimizer step; return means over all processes, and where the time went."""
        run, modules = self._run, self._objective.modules
        part, num_parts = self._ranks.share
        begun, waited, flops = time.monotonic(), 0.0, 0.0
        sums: dict[str, torch.Tensor] = {}
        for number in range(run.accumulate):
            asked = time.monotonic()
            batch = next(batches)
            waited += time.monotonic() - asked
            batch = batch.to(self._device, non_blocking=True)
            draws = Draws(self._recipe.seed, step, number * num_parts + part, run.accumulate * num_parts,
                          str(self._device))
            set_gradient_sync(modules.values(), number == run.accumulate - 1)
            with autocast(self._device, run):
                loss, details = self._objective.loss(batch, draws)
            self._check_loss(loss, batch, step)
            (loss / run.accumulate).backward()
            flops += self._objective.flops(batch)
            for name, value in {"loss": loss, **details}.items():
                sums[name] = sums.get(name, 0.0) + value.detach().float() / run.accumulate
        self._ranks.average_gradients(self._parameters)
        norm = full(nn.utils.clip_grad_norm_(self._parameters, self._recipe.optimizer.max_grad_norm))
        if not torch.isfinite(norm):
            self._give_up(batch, step, f"gradient norm {norm.item():g}")
        self._optimizers.step(factor)
        self._average.step()
        means = self._ranks.mean(torch.stack([*sums.values(), norm.float()])).tolist()
        values = dict(zip([*sums, "grad_norm"], means, strict=True))
        self._usual_loss.add(values["loss"])
        return values, Pace(time.monotonic() - begun, waited, flops)

    def _dataset(self) -> Dataset[Any]:
        """Return the dataset of this process's parts of the batches, one item a backward pass."""
        part, num_parts = self._ranks.share
        parts = [self._objective.batches(self._run.steps, (number * num_parts + part, self._run.accumulate * num_parts))
                 for number in range(self._run.accumulate)]
        return parts[0] if len(parts) == 1 else Interleaved(parts)

    def _try_heaviest(self, dataset: Dataset[Any]) -> None:
        """Run the batch that needs the most memory once, so that a run that can't end well does not begin."""
        number = getattr(dataset, "heaviest", None)
        if number is None:
            return
        batch = dataset[number].to(self._device)
        try:
            with autocast(self._device, self._run):
                loss, _ = self._objective.loss(batch, Draws(self._recipe.seed, 0, device=str(self._device)))
            loss.backward()
        except torch.OutOfMemoryError as error:
            raise ValueError("the memory does not suffice for the largest batch; raise run.accumulate, set "
                             "run.checkpoint_activations, or shard the weights (run.num_shards)") from error
        for parameter in self._parameters:
            parameter.grad = None

    def _check_loss(self, loss: torch.Tensor, batch: Any, step: int) -> None:
        value = loss.item()
        if not math.isfinite(value):
            self._give_up(batch, step, f"loss {value:g}")
        if self._usual_loss.is_settled and value > self._run.max_loss_ratio * self._usual_loss.value:
            self._give_up(batch, step, f"loss {value:g}, {self._usual_loss.value:g} in the mean of the steps before "
                                       f"(run.max_loss_ratio is {self._run.max_loss_ratio:g})")

    def _give_up(self, batch: Any, step: int, reason: str) -> None:
        path = save_batch(batch, self._output / f"bad-batch-step-{step:08d}-process-{self._ranks.number}")
        raise FloatingPointError(f"step {step}: {reason}; the batch is in {path}; lower the learning rate or resume "
                                 "from an older checkpoint")

    def _write_sheet(self, step: int, log: Log | None) -> None:
        if not (self._ranks.is_first or self._ranks.work_as_one):
            return
        with self._average.in_place(self._objective.modules):
            measured = self._objective.write_sheet(self._output / "sheets" / f"step-{step:08d}.png")
        if log is not None and measured:
            log.note(step, measured)

    def _any(self, *wishes: bool) -> list[bool]:
        """Return for each wish whether any process has it."""
        if self._ranks.count == 1:
            return list(wishes)
        return (self._ranks.mean(torch.tensor(wishes, dtype=torch.float32, device=self._device)) > 0).tolist()

    def _log(self) -> "contextlib.AbstractContextManager[Log | None]":
        if not self._ranks.is_first:
            return contextlib.nullcontext()
        rate = matmul_rate(self._device, matmul_dtype(self._device, self._run))
        return Log(self._output, self._run, rate, self._ranks.count)


def learning_rate_factor(options: Optimizer, step: int, num_steps: int) -> float:
    """Return the factor of the learning rate at `step`: linear warm-up, constant, linear decay to zero at the end."""
    warm = min(1.0, (step + 1) / max(1, options.warmup_steps))
    decay_steps = options.decay_share * num_steps
    return warm * (min(1.0, (num_steps - step) / decay_steps) if decay_steps else 1.0)


def save_batch(batch: Any, path: Path) -> Path:
    """Write a batch, a tensor or a dataclass of tensors and texts: `<path>.safetensors` and `<path>.json`."""
    values = ({field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
              if dataclasses.is_dataclass(batch) else {"batch": batch})
    tensors = {name: value.detach().cpu().contiguous() for name, value in values.items()
               if isinstance(value, torch.Tensor)}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path.with_suffix(".safetensors"))
    path.with_suffix(".json").write_text(json.dumps(
        {name: value for name, value in values.items() if name not in tensors}, indent=1, default=str))
    return path.with_suffix(".safetensors")


class _Mean:
    """The running mean of the losses."""

    def __init__(self) -> None:
        self.value = 0.0
        self._count = 0

    @property
    def is_settled(self) -> bool:
        return self._count >= _SETTLING_STEPS

    def add(self, value: float) -> None:
        self._count += 1
        self.value += (value - self.value) / min(self._count, 5 * _SETTLING_STEPS)
