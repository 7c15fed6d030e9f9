"""Every interval encoding against a scalar loop that integrates numerically, and the contrast that each one reaches."""

import cmath
import math
from collections.abc import Callable

import pytest
import torch

from alchemint.model.encodings import (
    ENCODINGS,
    Intervals,
    WeropeWeights,
    attention_proxy,
    mean_phase,
    rms,
    temporal_freqs,
)

T, NUM_PAIRS, THETA = 7, 6, 100.0
FREQS = [THETA ** (-k / NUM_PAIRS) for k in range(NUM_PAIRS)]
SPANS = [(0.0, 0.0), (0.0, 2.5), (1.125, 3.875), (2.0, 2.0), (3.5, 6.0), (4.0, 6.375), (6.375, 6.375), (0.0, 6.375)]
"""Latent spans in a video of seven latents: also empty, from the start, to the end, and past T - 1, as the last
frame of a latent lies."""


def mean_of_phase(start: float, end: float, w: float) -> complex:
    """The mean of exp(i w t) over [start, end] by Simpson's rule."""
    if start == end:
        return cmath.exp(1j * w * start)
    steps = 200
    total = 0j
    for step in range(steps + 1):
        weight = 1 if step in (0, steps) else 4 if step % 2 else 2
        total += weight * cmath.exp(1j * w * (start + (end - start) * step / steps))
    return total / (3 * steps)


def slow_untimed(t0: float, t1: float, index: int) -> list[complex]:
    return [cmath.exp(1j * w * (T + index)) for w in FREQS]


def slow_mid(t0: float, t1: float, index: int) -> list[complex]:
    return [cmath.exp(1j * w * (t0 + t1) / 2) for w in FREQS]


def slow_werope(t0: float, t1: float, index: int) -> list[complex]:
    left, right = t0 / 2, (t1 + T - 1) / 2
    return [1.67 * cmath.exp(1j * w * (t0 + t1) / 2) - 0.33 * (cmath.exp(1j * w * left) + cmath.exp(1j * w * right))
            for w in FREQS]


def slow_werope_literal(t0: float, t1: float, index: int) -> list[complex]:
    left, right = t0 / 2, (T - t1) / 2
    return [1.67 * cmath.exp(1j * w * (t0 + t1) / 2) - 0.33 * (cmath.exp(1j * w * left) + cmath.exp(1j * w * right))
            for w in FREQS]


def slow_tie(t0: float, t1: float, index: int) -> list[complex]:
    angles = [w * (t1 - t0) / 2 for w in FREQS]
    scale = sum(math.sin(angle) / angle if angle else 1.0 for angle in angles) / NUM_PAIRS
    return [mean_of_phase(t0, t1, w) / scale for w in FREQS]


def slow_contrast(t0: float, t1: float, index: int) -> list[complex]:
    sides = [(start, end) for start, end in ((0.0, t0), (t1, T - 1.0)) if end > start]
    raw = []
    for w in FREQS:
        outside = [mean_of_phase(start, end, w) for start, end in sides]
        raw.append(mean_of_phase(t0, t1, w) - (sum(outside) / len(outside) if outside else 0))
    scale = math.sqrt(sum(abs(m) ** 2 for m in raw) / NUM_PAIRS)
    return [m / scale for m in raw]


SLOW: dict[str, Callable[[float, float, int], list[complex]]] = {
    "untimed": slow_untimed, "mid": slow_mid, "werope": slow_werope, "werope_literal": slow_werope_literal,
    "tie": slow_tie, "contrast": slow_contrast}


def encode(name: str, spans: list[tuple[float, float]], num_latents: int, freqs: torch.Tensor) -> torch.Tensor:
    intervals = Intervals(torch.tensor(spans), torch.arange(len(spans)), num_latents)
    return ENCODINGS[name](intervals, freqs, WeropeWeights())


@pytest.mark.parametrize("name", ENCODINGS)
def test_a_scalar_loop_agrees(name: str) -> None:
    fast = encode(name, SPANS, T, temporal_freqs(NUM_PAIRS, THETA))
    assert fast.dtype == torch.complex128
    slow = torch.tensor([SLOW[name](t0, t1, index) for index, (t0, t1) in enumerate(SPANS)], dtype=torch.complex128)
    assert torch.allclose(fast, slow, atol=1e-6, rtol=0)


def test_frequencies_are_those_of_wan() -> None:
    assert temporal_freqs(22).tolist() == pytest.approx([10000 ** (-2 * k / 44) for k in range(22)], rel=1e-12)


@pytest.mark.parametrize("name", ENCODINGS)
def test_references_do_not_affect_each_other(name: str) -> None:
    freqs = temporal_freqs(NUM_PAIRS, THETA)
    together = Intervals(torch.tensor(SPANS).view(2, 4, 2), torch.arange(8).view(2, 4), T)
    batched = ENCODINGS[name](together, freqs, WeropeWeights())
    assert batched.shape == (2, 4, NUM_PAIRS)
    assert torch.equal(batched.flatten(0, 1), encode(name, SPANS, T, freqs))


def test_an_instant_is_its_own_mean() -> None:
    freqs = temporal_freqs(NUM_PAIRS, THETA)
    time = torch.tensor([2.625], dtype=torch.float64)
    assert torch.allclose(mean_phase(time, time, freqs), torch.polar(torch.ones_like(freqs), 2.625 * freqs))
    assert torch.allclose(encode("tie", [(2.625, 2.625)], T, freqs), encode("mid", [(2.625, 2.625)], T, freqs))


def test_werope_without_its_outside_is_mid() -> None:
    freqs = temporal_freqs(NUM_PAIRS, THETA)
    intervals = Intervals(torch.tensor(SPANS), torch.arange(len(SPANS)), T)
    assert torch.allclose(ENCODINGS["werope"](intervals, freqs, WeropeWeights(1.0, 0.0)),
                          ENCODINGS["mid"](intervals, freqs, WeropeWeights()))


def test_only_untimed_knows_the_subject_and_not_the_interval() -> None:
    freqs = temporal_freqs(NUM_PAIRS, THETA)
    early, late = ((0.0, 1.0), (4.0, 5.0))
    for name in ENCODINGS:
        same_interval = encode(name, [early, early], T, freqs)
        same_subject = torch.cat([encode(name, [early], T, freqs), encode(name, [late], T, freqs)])
        assert torch.equal(same_interval[0], same_interval[1]) == (name != "untimed")
        assert torch.equal(same_subject[0], same_subject[1]) == (name == "untimed")


def test_contrast_has_unit_power() -> None:
    assert torch.allclose(rms(encode("contrast", SPANS, T, temporal_freqs(NUM_PAIRS, THETA))), torch.ones(1).double())


def test_the_proxy_is_the_mean_cosine_of_video_and_reference() -> None:
    freqs = temporal_freqs(NUM_PAIRS, THETA)
    curve = attention_proxy(encode("werope", [(1.125, 3.875)], T, freqs), T, freqs)[0].tolist()
    multiplier = slow_werope(1.125, 3.875, 0)
    assert curve == pytest.approx([
        sum((cmath.exp(1j * w * t) * m.conjugate()).real for w, m in zip(FREQS, multiplier, strict=True)) / NUM_PAIRS
        for t in range(T)])


@pytest.mark.parametrize(("name", "mean", "worst"), [
    ("mid", 0.203, 0.114), ("werope", 0.285, 0.195), ("werope_literal", 0.280, 0.105), ("tie", 0.191, 0.076),
    ("contrast", 0.465, 0.385)])
def test_how_much_more_a_frame_inside_the_interval_attends(name: str, mean: float, worst: float) -> None:
    """The design's table: K(t) inside minus outside per unit rms, on Wan's 22 temporal frequencies, T = 21.

    Over all whole intervals 0 <= t0 <= t1 <= 20 but the one that leaves nothing outside. The design prints two
    digits, cut rather than rounded for werope_literal (.27) and tie (.18).
    """
    freqs = temporal_freqs(22)
    spans = [(float(a), float(b)) for a in range(21) for b in range(a, 21) if (a, b) != (0, 20)]
    multipliers = encode(name, spans, 21, freqs)
    curves = attention_proxy(multipliers, 21, freqs) / rms(multipliers)
    contrasts = []
    for (start, end), curve in zip(spans, curves.tolist(), strict=True):
        inside = [value for t, value in enumerate(curve) if start <= t <= end]
        outside = [value for t, value in enumerate(curve) if not start <= t <= end]
        contrasts.append(sum(inside) / len(inside) - sum(outside) / len(outside))
    assert sum(contrasts) / len(contrasts) == pytest.approx(mean, abs=6e-4)
    assert min(contrasts) == pytest.approx(worst, abs=6e-4)


def test_untimed_tells_nothing_of_the_interval() -> None:
    freqs = temporal_freqs(22)
    curves = attention_proxy(encode("untimed", [(0.0, 5.0), (15.0, 20.0)], 21, freqs), 21, freqs)
    assert curves[0, :6].mean() < curves[0, 6:].mean()
