"""One video on several devices: each takes a share of the tokens, and for attention a share of the heads.

Ulysses (arXiv 2309.14509): outside of attention every token is by itself, so each process works on its own; for
attention they exchange, and each sees all tokens for some of the heads (diffusers' own, set on the processors).

The tokens of both segments, video and conditions, are shared out evenly, so that all have the same to do:

    process r of n    [ video: share r of n | conditions: share r of n ]
"""

from collections.abc import Iterable
from typing import Any

import torch
from diffusers.models._modeling_parallel import ContextParallelConfig, ParallelConfig
from torch.distributed import _functional_collectives as functional

Tensor = torch.Tensor


class ContextParallel:
    """Shares tokens out among the processes of `config` and brings them together again.

    Gradients are right in the mean over the processes when each takes the same loss from what was brought together.
    """

    def __init__(self, config: ContextParallelConfig) -> None:
        self._group = config._ulysses_mesh.get_group()
        self._rank: int = config._ulysses_local_rank
        self.size: int = config.ulysses_degree
        self._config = config

    def use_in(self, attention: Iterable[Any]) -> None:
        """Let self-attention modules exchange tokens for heads."""
        for module in attention:
            module.processor._parallel_config = ParallelConfig(context_parallel_config=self._config)

    def share(self, tokens: Tensor, num_video_tokens: int) -> Tensor:
        """Return this process's share of (batch, tokens, ...): of the video tokens, which come first, and of the rest.

        Raises ValueError where they can't be divided.
        """
        parts = []
        for name, segment in (("video", tokens[:, :num_video_tokens]), ("condition", tokens[:, num_video_tokens:])):
            if segment.shape[1] % self.size:
                raise ValueError(f"{segment.shape[1]} {name} tokens can't be shared by {self.size} processes; choose a "
                                 "size, a number of frames or a degree of context parallelism that divides them")
            parts.append(segment.chunk(self.size, dim=1)[self._rank] if segment.shape[1] else segment)
        return torch.cat(parts, dim=1)

    def gather(self, tokens: Tensor) -> Tensor:
        """Return the video tokens of all processes, each of which has its share (batch, tokens / size, dim)."""
        gathered: Tensor = functional.all_gather_tensor_autograd(tokens.contiguous(), 1, self._group)
        return gathered
