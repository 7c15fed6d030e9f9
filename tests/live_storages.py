"""The bytes of tensors that really live while code runs, counted at every operation that torch dispatches."""

import weakref
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary


class LiveStorages(TorchDispatchMode):
    """A mode that keeps, for each type of device, how many bytes live, and in each stage the most that did.

    known: tensors from before that count from the beginning, such as a model's weights. stage: a name to be set by who
    wants the peak of a part.
    """

    def __init__(self, known: Iterable[torch.Tensor] = ()) -> None:
        super().__init__()
        self.live: dict[str, int] = defaultdict(int)
        self.peaks: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        self.stage = "first"
        self._seen = WeakIdKeyDictionary()
        for tensor in known:
            self._see(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = self.run(func, args, kwargs or {})
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self._see(leaf)
        peaks = self.peaks[self.stage]
        for device, num_bytes in self.live.items():
            peaks[device] = max(peaks[device], num_bytes)
        return out

    def peak(self, device: str = "cpu") -> int:
        """Return the most bytes that ever lived on a type of device."""
        return max(peaks[device] for peaks in self.peaks.values())

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        return func(*args, **kwargs)

    def _see(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self._seen:
            return
        device, num_bytes = storage.device.type, storage.nbytes()
        self._seen[storage] = True
        self.live[device] += num_bytes
        weakref.finalize(storage, self._drop, device, num_bytes)

    def _drop(self, device: str, num_bytes: int) -> None:
        self.live[device] -= num_bytes


class PretendedDevice(LiveStorages):
    """The same, where the device "meta" stands for a GPU: what is brought back from it has some value or other."""

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return 0
        if func is torch.ops.aten._to_copy.default and args[0].is_meta:
            target = torch.device(kwargs.get("device") or "meta")
            if target.type == "cpu":
                return torch.empty(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        return func(*args, **kwargs)
