"""Tensors in files, each read when it is asked for: safetensors, one or in shards, and PyTorch's own .pth.

Files are mapped into memory, so that a tensor takes memory once it is used. Nothing but tensors is ever unpickled.
"""

import json
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

Tensor = torch.Tensor

_NESTED = ("state_dict", "model", "module")
_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "model.", "module.")
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: its name there, its shape, and how it is read."""

    name: str
    shape: tuple[int, ...]
    read: Callable[[], Tensor]


Stored = dict[str, StoredTensor]


def open_tensors(path: Path) -> Stored:
    """Return the tensors of a file, an index of shards, or a folder of such, by name.

    A prefix that all names have, such as "model.", is left out. Raises ValueError for what is missing or broken.
    """
    if path.is_dir():
        path = _only_weights(path)
    if not path.is_file():
        raise ValueError(f"{path} is not there; fetch the model again, or correct its name")
    if path.suffix == ".json":
        return _without_prefix(_open_index(path))
    if path.suffix not in _SUFFIXES:
        raise ValueError(f"{path} is no file of weights; they end in {', '.join(_SUFFIXES)}")
    return _without_prefix(_open_safetensors(path) if path.suffix == ".safetensors" else _open_pth(path))


def find_file(stem: Path) -> Path:
    """Return the file of weights `stem` with any ending; ValueError when there is none."""
    for suffix in _SUFFIXES:
        if (path := stem.with_name(stem.name + suffix)).is_file():
            return path
    raise ValueError(f"{stem}.pth is not there; fetch it again, or say with --base (base=) which Wan is to supply it")


def _only_weights(folder: Path) -> Path:
    """Return the index or the file of the one model that a folder holds."""
    stems = [folder / f"{stem}.safetensors{ending}" for ending in (".index.json", "")
             for stem in ("diffusion_pytorch_model", "model")]
    if found := next((path for path in stems if path.is_file()), None):
        return found
    indices = sorted(folder.glob("*.index.json"))
    sharded = {shard for index in indices for shard in _weight_map(index).values()}
    found_alone = [path for suffix in _SUFFIXES for path in sorted(folder.glob(f"*{suffix}"))
                   if path.name not in sharded and "VAE" not in path.name and not path.name.startswith("models_")]
    if not (candidates := indices + found_alone):
        raise ValueError(f"{folder} holds no weights; fetch the model again, or name another folder")
    if len(candidates) > 1:
        names = ", ".join(path.name for path in candidates)
        raise ValueError(f"{folder} holds weights of several models ({names}); name one of these files")
    return candidates[0]


def _weight_map(index: Path) -> dict[str, str]:
    try:
        found: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{index} is no index of shards: {error!r}; fetch it again") from error
    return found


def _open_index(index: Path) -> Stored:
    places = _weight_map(index)
    shards: dict[str, Stored] = {}
    for name in sorted(set(places.values())):
        if not (index.parent / name).is_file():
            raise ValueError(f"{index} names {name}, which is not there; fetch it again")
        shards[name] = _open_safetensors(index.parent / name)
    for tensor, shard in places.items():
        if tensor not in shards[shard]:
            raise ValueError(f"{index} looks for {tensor} in {shard}, which does not hold it; fetch both again")
    return {tensor: shards[shard][tensor] for tensor, shard in places.items()}


def _open_safetensors(path: Path) -> Stored:
    try:
        file = safe_open(path, "pt")
        return {name: StoredTensor(name, tuple(file.get_slice(name).get_shape()), partial(file.get_tensor, name))
                for name in file.keys()}  # noqa: SIM118 - it is no dictionary
    except (SafetensorError, OSError) as error:
        raise _broken(path, error) from error


def _open_pth(path: Path) -> Stored:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError) as error:
        raise _broken(path, error) from error
    for key in _NESTED:
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not found or not all(isinstance(value, Tensor) for value in found.values()):
        raise ValueError(f"{path} holds no tensors by name; a model's state dict is needed")
    return {name: StoredTensor(name, tuple(tensor.shape), partial(_same, tensor)) for name, tensor in found.items()}


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _broken(path: Path, error: Exception) -> ValueError:
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return ValueError(f"{path} is cut short or no file of tensors ({reason}); fetch it again")


def _without_prefix(stored: Stored) -> Stored:
    for prefix in _PREFIXES:
        if stored and all(name.startswith(prefix) for name in stored):
            return {name.removeprefix(prefix): tensor for name, tensor in stored.items()}
    return stored
