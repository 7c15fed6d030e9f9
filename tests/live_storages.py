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
    """A mode that keeps, for each type of device, how many bytes live and the most that did.

    known: tensors from before that count from the beginning, such as a model's weights.
    """

    def __init__(self, known: Iterable[torch.Tensor] = ()) -> None:
        super().__init__()
        self.live: dict[str, int] = defaultdict(int)
        self.peak: dict[str, int] = defaultdict(int)
        self._seen = WeakIdKeyDictionary()
        for tensor in known:
            self._see(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = self.run(func, args, kwargs or {})
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self._see(leaf)
        return out

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        return func(*args, **kwargs)

    def _see(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self._seen:
            return
        device, num_bytes = storage.device.type, storage.nbytes()
        self._seen[storage] = True
        self.live[device] += num_bytes
        self.peak[device] = max(self.peak[device], self.live[device])
        weakref.finalize(storage, self._drop, device, num_bytes)

    def _drop(self, device: str, num_bytes: int) -> None:
        self.live[device] -= num_bytes
