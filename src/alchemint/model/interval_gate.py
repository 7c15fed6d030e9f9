"""A gate on attention that tells when a reference counts, for models that were trained without intervals. Experimental.

A model that was trained with untimed references (as Phantom's) shows a subject at any time. Nothing is trained here:
in self-attention, a number is added to the logits of a video token's query and the keys of a reference and its word
tag. It is a function of the query's latent frame t and the reference's span [t0, t1] on the latent axis:

    bias(t) = -strength min(1, d / softness)      d = max(t0 - t, t - t1, 0)

With the default softness a latent whose frames are all inside is left as it is, one with none inside gets the whole
strength, and one in between a part. Conditions' own queries are not gated: they have no time.

The bias depends on the query's frame alone. So attention runs for a few frames at a time, each with one row of bias
that counts for all its queries; no mask of queries x keys is ever in memory, and frames that see all need none.

    B batch, N references, T latent frames, V video tokens, R reference and word-tag tokens
"""

import math
from typing import NamedTuple

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn

Tensor = torch.Tensor

SOFTNESS = 0.5
"""Latent frames over which the gate closes. A latent's own frames lie up to 0.375 from it, the next 0.625."""


class FrameRun(NamedTuple):
    """Consecutive latent frames with the same bias: their video tokens from `start` to `end`, and whether it is 0."""

    start: int
    end: int
    is_open: bool


class IntervalGate(NamedTuple):
    """What a gate adds to the logits: for each run of frames a row over all keys (B, runs, V + R)."""

    bias: Tensor
    runs: tuple[FrameRun, ...]


def check_strength(strength: float) -> None:
    """Raise ValueError where `strength` is no strength of a gate."""
    if not 0 <= strength < math.inf:
        raise ValueError(f"reference_gate is {strength:g}; use a number from 0 (no gate) up: 10 leaves a reference "
                         "1/22000 of its weight outside its interval")


def interval_bias(spans: Tensor, num_frames: int, strength: float, softness: float = SOFTNESS) -> Tensor:
    """Return what is added to the logits of each latent frame's queries and each reference's keys.

    spans: (B, N, 2), [t0, t1] on the latent axis. num_frames: T. strength: 0 or more. softness: more than 0, in latent
    frames. Returns (B, T, N), from 0 inside to -strength outside.
    """
    times = torch.arange(num_frames, device=spans.device).view(1, -1, 1)
    start, end = spans.unsqueeze(1).unbind(-1)
    distance = torch.maximum(start - times, times - end).clamp(min=0)
    return -strength * (distance / softness).clamp(max=1)


def interval_gate(spans: Tensor, grid: tuple[int, int, int], num_word_tokens: int, strength: float) -> IntervalGate:
    """Return the gate of a sequence [video: T h w | references: N h w | word tags: N L].

    spans: (B, N, 2), on the latent axis. grid: T, h, w. num_word_tokens: L. strength: 0 or more.

    Raises ValueError where strength is not.
    """
    check_strength(strength)
    num_frames, per_frame = grid[0], grid[1] * grid[2]
    bias = interval_bias(spans, num_frames, strength)
    changes = (bias[:, 1:] != bias[:, :-1]).any(2).any(0).nonzero().flatten() + 1
    first = torch.cat([changes.new_zeros(1), changes])
    bias = bias[:, first]
    is_open = (bias == 0).all(2).all(0)
    ends = [*first[1:].tolist(), num_frames]
    runs = tuple(FrameRun(start * per_frame, end * per_frame, open_)
                 for start, end, open_ in zip(first.tolist(), ends, is_open.tolist(), strict=True))
    video = bias.new_zeros(*bias.shape[:2], num_frames * per_frame)
    keys = torch.cat([video, bias.repeat_interleave(per_frame, 2), bias.repeat_interleave(num_word_tokens, 2)], 2)
    return IntervalGate(keys, runs)


def gated_attention(query: Tensor, key: Tensor, value: Tensor, gate: IntervalGate, backend: str | None) -> Tensor:
    """Attend from all video tokens (B, V, heads, D) to all keys and values (B, V + R, heads, D).

    backend: diffusers' attention backend for frames that see all, its default when None. Gated frames run on PyTorch's
    own, as flash kernels take no bias. Returns (B, V, heads, D).
    """
    parts: list[Tensor] = []
    for number, run in enumerate(gate.runs):
        bias = None if run.is_open else gate.bias[:, number, None, None].to(query.dtype)
        parts.append(dispatch_attention_fn(query[:, run.start:run.end], key, value, attn_mask=bias,
                                           backend=backend if run.is_open else "native"))
    return torch.cat(parts, dim=1)
