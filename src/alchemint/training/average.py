"""The moving average of the weights (diffusers' EMAModel), whether they are whole or in shards."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from diffusers.training_utils import EMAModel
from torch import nn

from alchemint.training.sharding import local


class Average:
    """The exponential moving average of what this process holds of the trained parameters."""

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        # EMAModel's fused operations refuse distributed tensors; parameters made of the local parts share their memory.
        self._parts = [nn.Parameter(local(parameter)) for parameter in parameters]
        self._ema = EMAModel(self._parts, decay=decay, use_ema_warmup=True, inv_gamma=10, power=1.0, foreach=True)

    @property
    def shadows(self) -> list[torch.Tensor]:
        """The averages, in the order of the parameters."""
        return list(self._ema.shadow_params)

    @property
    def step_number(self) -> int:
        """How many steps it has seen, on which its decay depends."""
        return int(self._ema.optimization_step)

    @step_number.setter
    def step_number(self, value: int) -> None:
        self._ema.optimization_step = value

    def step(self) -> None:
        """Take in the weights as they are now."""
        self._ema.step(self._parts)

    @contextmanager
    def in_place(self, modules: dict[str, nn.Module]) -> Iterator[None]:
        """Put the averaged weights in place, with the modules in evaluation mode, for the time of the context."""
        self._ema.store(self._parts)
        self._ema.copy_to(self._parts)
        for module in modules.values():
            module.eval()
        try:
            yield
        finally:
            self._ema.restore(self._parts)
            for module in modules.values():
                module.train()
