"""Checkpoints: everything a run needs to continue bit for bit, in safetensors and JSON; complete or absent.

    <run>/checkpoints/step-00001200/
        shard-00001-….safetensors   what process 1 holds (torch's distributed checkpoints, safetensors format), named
                                    weights/<module>.<parameter>, ema/…, adamw.exp_avg/…, muon.momentum_buffer/…
        state.json                  step, seconds spent, and the recipe's fingerprint

Only what is trained is saved. Any number of processes can read what any other number wrote.
"""

import json
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter

from alchemint.training.average import Average
from alchemint.training.optimizers import Optimizers
from alchemint.training.ranks import ALONE, Ranks
from alchemint.training.sharding import like

_STEP_FOLDER = "step-{:08d}"
_STEP_FOLDERS = "step-????????"


@dataclass(frozen=True)
class Progress:
    """How far a run has come."""

    step: int
    seconds: float
    """Time spent training, over all sessions."""


@dataclass(frozen=True)
class TrainedState:
    """The live objects that a checkpoint saves and restores in place."""

    parameters: dict[str, nn.Parameter]
    """What is trained, by the name it bears in checkpoints."""
    optimizers: Optimizers
    average: Average

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return all tensors by their names in a checkpoint; they share the memory of the live objects."""
        named = list(self.parameters.items())
        return {**{f"weights/{name}": parameter.detach() for name, parameter in named},
                **{f"ema/{name}": like(shadow, parameter)
                   for (name, parameter), shadow in zip(named, self.average.shadows, strict=True)},
                **self.optimizers.tensors({id(parameter): name for name, parameter in named})}


def find(folder: Path, step: int | None = None) -> Path:
    """Return the checkpoint of a step, or the newest; ValueError, naming those there are, when there is none."""
    found = latest(folder) if step is None else folder / _STEP_FOLDER.format(step)
    if found is None or not (found / "state.json").is_file():
        there = ", ".join(str(int(path.name.split("-")[1])) for path in sorted(folder.glob(_STEP_FOLDERS))) or "none"
        raise ValueError(f"{folder}: no checkpoint{'' if step is None else f' of step {step}'}; there are: {there}")
    return found


def latest(folder: Path) -> Path | None:
    """Return the newest complete checkpoint in `folder`, or None."""
    complete = sorted(path for path in folder.glob(_STEP_FOLDERS) if (path / "state.json").is_file())
    return complete[-1] if complete else None


def save(folder: Path, state: TrainedState, progress: Progress, fingerprint: str, keep: int,
         ranks: Ranks = ALONE) -> Path:
    """Write a checkpoint into `folder`, whole or not at all, and remove all but the newest `keep`.

    All processes of a run call this together. One that is there already is left as it is: a run that ends at a
    checkpoint has nothing new to say.
    """
    final = folder / _STEP_FOLDER.format(progress.step)
    if (final / "state.json").is_file():
        return final
    partial = final.with_suffix(".partial")
    if ranks.is_first:
        for cut_off in folder.glob(f"{_STEP_FOLDERS}.partial"):
            shutil.rmtree(cut_off)
        partial.mkdir(parents=True)
    ranks.wait()
    with _plainly():
        dcp.save({name: tensor.contiguous() for name, tensor in state.tensors().items()}, no_dist=ranks.count == 1,
                 storage_writer=HuggingFaceStorageWriter(str(partial), save_distributed=True))
    ranks.wait()
    if ranks.is_first:
        (partial / "state.json").write_text(json.dumps({
            "step": progress.step, "seconds": progress.seconds, "fingerprint": fingerprint,
            "num_processes": ranks.count, "ema_step": state.average.step_number}))
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        for old in sorted(folder.glob(_STEP_FOLDERS))[:-keep]:
            # First of all it no longer counts as complete, should this be cut off.
            (old / "state.json").unlink(missing_ok=True)
            shutil.rmtree(old)
    ranks.wait()
    return final


def restore(path: Path, state: TrainedState, fingerprint: str, ranks: Ranks = ALONE) -> Progress:
    """Load a checkpoint into the live objects of `state`; all processes of a run call this together.

    Raises ValueError when the checkpoint was made by another recipe.
    """
    saved = json.loads((path / "state.json").read_text())
    if saved["fingerprint"] != fingerprint:
        raise ValueError(f"{path} was made by another recipe; resume with the recipe that stands beside it, "
                         "or choose another output folder")
    load_tensors(path, state.tensors(), ranks)
    state.average.step_number = saved["ema_step"]
    return Progress(saved["step"], saved["seconds"])


def load_tensors(folder: Path, into: dict[str, torch.Tensor], ranks: Ranks = ALONE) -> None:
    """Fill tensors, each process its part, from the safetensors files of a folder, by name."""
    with _plainly():
        dcp.load(into, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=ranks.count == 1)


@contextmanager
def _plainly() -> Iterator[None]:
    """Raise what went wrong in a process itself, not wrapped; and don't warn that there is but one."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        try:
            yield
        except CheckpointException as error:
            fault, _ = next(iter(error.failures.values()))
            raise fault from None
