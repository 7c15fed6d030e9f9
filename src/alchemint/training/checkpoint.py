"""Checkpoints: everything a run needs to continue bit for bit, in safetensors and JSON; complete or absent.

    <run>/checkpoints/step-00001200/
        <module>.safetensors     the weights of each trained module
        ema.safetensors          the averaged weights
        adamw.safetensors, ...   the optimizers' moments, named <parameter number>.<moment>
        state.json               step, samples seen, and the recipe's fingerprint
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import nn

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

    modules: dict[str, nn.Module]
    optimizers: dict[str, torch.optim.Optimizer]
    ema: EMAModel


def latest(folder: Path) -> Path | None:
    """Return the newest complete checkpoint in `folder`, or None."""
    complete = sorted(path for path in folder.glob(_STEP_FOLDERS) if (path / "state.json").is_file())
    return complete[-1] if complete else None


def save(folder: Path, state: TrainedState, progress: Progress, fingerprint: str, keep: int) -> Path:
    """Write a checkpoint into `folder`, whole or not at all, and remove all but the newest `keep`.

    One that is there already is left as it is: a run that ends at a checkpoint has nothing new to say.
    """
    final = folder / _STEP_FOLDER.format(progress.step)
    if (final / "state.json").is_file():
        return final
    partial = final.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, module in state.modules.items():
        save_model(module, str(partial / f"{name}.safetensors"))
    save_file({f"{number:05d}": tensor.contiguous() for number, tensor in enumerate(state.ema.shadow_params)},
              partial / "ema.safetensors")
    for name, optimizer in state.optimizers.items():
        save_file(_optimizer_tensors(optimizer), partial / f"{name}.safetensors")
    (partial / "state.json").write_text(json.dumps({
        "step": progress.step, "seconds": progress.seconds, "fingerprint": fingerprint,
        "ema_step": state.ema.optimization_step}))
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    for old in sorted(folder.glob(_STEP_FOLDERS))[:-keep]:
        shutil.rmtree(old)
    return final


def restore(path: Path, state: TrainedState, fingerprint: str) -> Progress:
    """Load a checkpoint into the live objects of `state`.

    Raises ValueError when the checkpoint was made by another recipe.
    """
    saved = json.loads((path / "state.json").read_text())
    if saved["fingerprint"] != fingerprint:
        raise ValueError(f"{path} was made by another recipe; resume with the recipe that stands beside it, "
                         "or choose another output folder")
    for name, module in state.modules.items():
        load_model(module, path / f"{name}.safetensors")
    shadow = load_file(path / "ema.safetensors")
    for number, tensor in enumerate(state.ema.shadow_params):
        tensor.copy_(shadow[f"{number:05d}"])
    state.ema.optimization_step = saved["ema_step"]
    for name, optimizer in state.optimizers.items():
        _load_optimizer_tensors(optimizer, load_file(path / f"{name}.safetensors"))
    return Progress(saved["step"], saved["seconds"])


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    return {f"{number}.{moment}": tensor.contiguous()
            for number, moments in optimizer.state_dict()["state"].items() for moment, tensor in moments.items()}


def _load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        number, moment = name.split(".")
        state.setdefault(int(number), {})[moment] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
