"""One video on several devices: each takes a share of the tokens, and for attention a share of the heads.

Ulysses (arXiv 2309.14509): outside of attention every token is by itself, so each process works on its own; for
attention they exchange, and each sees all tokens for some of the heads.

The tokens of both segments, video and conditions, are shared out evenly, so that all have the same to do. What does not
divide is filled up with zeros, which attention never sees: they are cut off as soon as all tokens have come together.

    process r of n    [ video: share r of n | conditions: share r of n ]
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from diffusers.models.attention_dispatch import SeqAllToAllDim
from torch import distributed
from torch.distributed import ProcessGroup
from torch.distributed import _functional_collectives as functional

Tensor = torch.Tensor

_HEADS, _TOKENS = 2, 1


class SegmentLengths(NamedTuple):
    """How many tokens of the whole sequence are the video's, and how many come after them."""

    video: int
    conditions: int


class ContextParallel:
    """Shares tokens out among the processes of a group and brings them together again.

    Gradients are right in the mean over the processes when each takes the same loss from what was brought together.
    """

    def __init__(self, group: ProcessGroup) -> None:
        self._group = group
        self._rank = distributed.get_rank(group)
        self.size = distributed.get_world_size(group)

    def share_of(self, count: int) -> int:
        """Return how many of `count` tokens each process has, filling included."""
        return -(-count // self.size)

    def share(self, tokens: Tensor, num_video_tokens: int) -> Tensor:
        """Return this process's share of (batch, tokens, ...): of the video's, which come first, and of the rest."""
        parts = []
        for segment in (tokens[:, :num_video_tokens], tokens[:, num_video_tokens:]):
            each = self.share_of(segment.shape[1])
            filled = _filled(segment, each * self.size)
            parts.append(filled[:, self._rank * each:(self._rank + 1) * each])
        return torch.cat(parts, dim=1)

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of `values` over the processes."""
        summed: Tensor = functional.all_reduce(values, "sum", self._group)
        return summed

    def gather(self, tokens: Tensor, num_video_tokens: int) -> Tensor:
        """Return the video tokens of all processes, each of which has its share (batch, share, dim)."""
        gathered: Tensor = functional.all_gather_tensor_autograd(tokens.contiguous(), 1, self._group)
        return gathered[:, :num_video_tokens]

    def to_heads(self, tokens: Tensor, lengths: SegmentLengths) -> Tensor:
        """Exchange a share of the tokens (batch, share, heads, dim) for all tokens of a share of the heads."""
        shares = SegmentLengths(*map(self.share_of, lengths))
        together = SeqAllToAllDim.apply(self._group, tokens, _HEADS, _TOKENS).unflatten(1, (self.size, sum(shares)))
        video, conditions = together.split(list(shares), dim=2)
        return torch.cat([video.flatten(1, 2)[:, :lengths.video], conditions.flatten(1, 2)[:, :lengths.conditions]], 1)

    def to_tokens(self, heads: Tensor, lengths: SegmentLengths) -> Tensor:
        """Undo `to_heads`; filling comes back as zeros."""
        each = [_filled(segment, self.size * self.share_of(segment.shape[1])).unflatten(1, (self.size, -1))
                for segment in heads.split(list(lengths), dim=1) if segment.shape[1]]
        return SeqAllToAllDim.apply(self._group, torch.cat(each, dim=2).flatten(1, 2), _TOKENS, _HEADS)


def _filled(tokens: Tensor, count: int) -> Tensor:
    """Lengthen (batch, tokens, ...) to `count` tokens by zeros."""
    missing = count - tokens.shape[1]
    return F.pad(tokens, (0, 0) * (tokens.ndim - 2) + (0, missing)) if missing else tokens
