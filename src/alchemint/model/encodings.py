"""Interval encodings: how a reference token's temporal rotary channels say when its subject is on screen.

In rotary position embedding a video token at latent frame t turns channel pair k of its queries and keys by
exp(i w_k t). A reference counts in a whole interval [t0, t1], so its tokens take a complex multiplier m_k instead
(AlcheMinT, arXiv 2512.10943, eq. of WeRoPE; further rows are ablations and alternatives). Because the rotation is
linear, every encoding is one table per reference; video tokens and attention kernels stay as they are.

    M_k(a, b) = exp(i w_k (a+b)/2) sinc(w_k (b-a)/2)     the mean of exp(i w_k t) over [a, b]

Shapes: ... any leading dimensions (batch, references), K temporal channel pairs. T is the number of latent frames.
All is computed in float64 / complex128.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

Tensor = torch.Tensor


@dataclass(frozen=True)
class Intervals:
    """The latent spans of references, and the video that they lie in.

    spans: (..., 2), [t0, t1] on the latent axis. indices: (...), each reference's subject index. num_latents: T.
    """

    spans: Tensor
    indices: Tensor
    num_latents: int

    @property
    def start(self) -> Tensor:
        """t0 as (..., 1)."""
        return self.spans[..., 0:1].double()

    @property
    def end(self) -> Tensor:
        """t1 as (..., 1)."""
        return self.spans[..., 1:2].double()


@dataclass(frozen=True)
class WeropeWeights:
    """The weights of the interval's midpoint and of the midpoints of what lies outside (paper: 1.67 and -0.33)."""

    inside: float = 1.67
    outside: float = -0.33


def temporal_freqs(num_pairs: int, theta: float = 10000.0, device: torch.device | str | None = None) -> Tensor:
    """Return w_k = theta^(-k / K) for k = 0 .. K-1 as (K,) float64, Wan's temporal frequencies for K channel pairs."""
    return theta ** (-torch.arange(num_pairs, dtype=torch.float64, device=device) / num_pairs)


def phase(position: Tensor, freqs: Tensor) -> Tensor:
    """Return exp(i w_k t) as (..., K) for positions (..., 1)."""
    angle = position.double() * freqs
    return torch.polar(torch.ones_like(angle), angle)


def sinc(x: Tensor) -> Tensor:
    """Return sin x / x, 1 at 0 (torch.sinc is the one with pi)."""
    return torch.sinc(x / torch.pi)


def mean_phase(start: Tensor, end: Tensor, freqs: Tensor) -> Tensor:
    """Return M_k(start, end), the mean of exp(i w_k t) over [start, end], as (..., K)."""
    return phase((start + end) / 2, freqs) * sinc((end - start) / 2 * freqs)


def untimed(intervals: Intervals, freqs: Tensor, weights: WeropeWeights) -> Tensor:
    """Stock rotary positions after the video's end, T + n for subject n (as Phantom does): no interval at all."""
    return phase(intervals.num_latents + intervals.indices.unsqueeze(-1), freqs)


def mid(intervals: Intervals, freqs: Tensor, weights: WeropeWeights) -> Tensor:
    """MidRoPE, the paper's ablation: the interval's midpoint, whatever its length."""
    return phase((intervals.start + intervals.end) / 2, freqs)


def werope(intervals: Intervals, freqs: Tensor, weights: WeropeWeights) -> Tensor:
    """WeRoPE, the default: the midpoint, minus the midpoints of what lies left and right of the interval."""
    right = (intervals.end + intervals.num_latents - 1) / 2
    return _weighted(intervals, right, freqs, weights)


def werope_literal(intervals: Intervals, freqs: Tensor, weights: WeropeWeights) -> Tensor:
    """WeRoPE with t_r = (T - t1)/2 as printed in notes on the paper: no position on the right; kept as a variant."""
    right = (intervals.num_latents - intervals.end) / 2
    return _weighted(intervals, right, freqs, weights)


def _weighted(intervals: Intervals, right: Tensor, freqs: Tensor, weights: WeropeWeights) -> Tensor:
    outside = phase(intervals.start / 2, freqs) + phase(right, freqs)
    return weights.inside * mid(intervals, freqs, weights) + weights.outside * outside


def tie(intervals: Intervals, freqs: Tensor, weights: WeropeWeights) -> Tensor:
    """TIE (arXiv 2605.10543): the mean phase over the interval, scaled by the mean of its lengths over k."""
    lengths = sinc((intervals.end - intervals.start) / 2 * freqs)
    return mean_phase(intervals.start, intervals.end, freqs) / lengths.mean(-1, keepdim=True)


def contrast(intervals: Intervals, freqs: Tensor, weights: WeropeWeights) -> Tensor:
    """The mean phase inside minus the mean of the mean phases of the sides outside, scaled to rms 1 over k. Ours.

    A side that is empty (the interval begins at 0, or ends at T-1 or later) is left out.
    """
    last = intervals.num_latents - 1
    zero = torch.zeros_like(intervals.start)
    sides = [(zero, intervals.start), (intervals.end, zero + last)]
    outside = torch.zeros_like(phase(zero, freqs))
    count = zero
    for start, end in sides:
        there = end > start
        outside = outside + torch.where(there, mean_phase(start, end, freqs), 0)
        count = count + there
    multiplier = mean_phase(intervals.start, intervals.end, freqs) - outside / count.clamp(min=1)
    return multiplier / rms(multiplier)


def rms(multiplier: Tensor) -> Tensor:
    """Return the root mean square of |m_k| over k as (..., 1)."""
    return multiplier.abs().square().mean(-1, keepdim=True).sqrt()


ENCODINGS: dict[str, Callable[[Intervals, Tensor, WeropeWeights], Tensor]] = {
    "untimed": untimed,
    "mid": mid,
    "werope": werope,
    "werope_literal": werope_literal,
    "tie": tie,
    "contrast": contrast,
}


def attention_proxy(multiplier: Tensor, num_latents: int, freqs: Tensor) -> Tensor:
    """Return K(t) = mean_k Re(exp(i w_k t) conj(m_k)) for t = 0 .. T-1 as (..., T).

    It is the logit that a reference gets from a video token at frame t when content says nothing: a way to compare
    encodings without training, no more.
    """
    times = torch.arange(num_latents, dtype=torch.float64, device=freqs.device).unsqueeze(-1)
    return (phase(times, freqs) * multiplier.unsqueeze(-2).conj()).real.mean(-1)
