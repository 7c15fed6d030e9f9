"""The event branch's positions against loops of the papers' formulas, and its mask."""

import cmath
import math

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanAttention

from alchemint.model.encodings import temporal_freqs
from alchemint.model.event_attention import EVENT_ENCODINGS, EventAttnProcessor, event_rotary, rerope_tables, tie_tables

T, NUM_PAIRS, THETA = 9, 6, 1000.0
FREQS = [THETA ** (-k / NUM_PAIRS) for k in range(NUM_PAIRS)]
EVENTS = [(0.5, 2.0), (2.0, 5.25), (6.0, 7.5)]
"""Latent spans of three events: after the start, side by side, apart, before the end."""


def rescaled_time(t: float) -> float:
    """MinT's equation for a frame in an event (n from 1, L = 8); else the border of the events around it."""
    for n, (start, end) in enumerate(EVENTS, start=1):
        if t < start:
            return (n - 1) * 8.0
        if t <= end:
            return (t - start) * 8.0 / (end - start) + (n - 1) * 8.0
    return len(EVENTS) * 8.0


def test_rerope_is_mints_rescaled_time() -> None:
    frames, events = rerope_tables(torch.tensor([EVENTS]), T, temporal_freqs(NUM_PAIRS, THETA))
    slow_frames = [[cmath.exp(1j * w * rescaled_time(t)) for w in FREQS] for t in range(T)]
    slow_events = [[cmath.exp(1j * w * (n - 0.5) * 8.0) for w in FREQS] for n in range(1, len(EVENTS) + 1)]
    assert torch.allclose(frames[0], torch.tensor(slow_frames, dtype=torch.complex128), atol=1e-9)
    assert torch.allclose(events[0], torch.tensor(slow_events, dtype=torch.complex128), atol=1e-9)


@pytest.mark.parametrize("spans", [EVENTS, [(0.0, 0.0), (0.0, 8.0)], [(3.0, 3.0)], [(0.0, 8.375)]])
def test_rescaled_time_never_runs_backwards(spans: list[tuple[float, float]]) -> None:
    """The slowest channel pair turns less than half a circle, so its angle tells the rescaled time."""
    slowest = torch.tensor([1e-3], dtype=torch.float64)
    frames, _ = rerope_tables(torch.tensor([spans]), T, slowest)
    times = frames[0, :, 0].angle() / slowest
    assert (times.diff() >= -1e-9).all()
    assert times.min() >= -1e-9
    assert times.max() <= 8.0 * len(spans) + 1e-9


def test_an_event_after_the_video_moves_no_frame() -> None:
    """Padding lies there: the frames' positions are those of the events before it alone."""
    freqs = temporal_freqs(NUM_PAIRS, THETA)
    alone, _ = rerope_tables(torch.tensor([EVENTS]), T, freqs)
    padded, _ = rerope_tables(torch.tensor([[*EVENTS, (float(T), T + 1.0)]]), T, freqs)
    assert torch.equal(alone, padded)


def test_tie_is_the_mean_phase_of_the_event() -> None:
    overlapping = [(0.5, 4.0), (2.0, 5.25)]
    frames, events = tie_tables(torch.tensor([overlapping]), T, temporal_freqs(NUM_PAIRS, THETA))
    slow_frames = [[cmath.exp(1j * w * t) for w in FREQS] for t in range(T)]
    slow_events = []
    for start, end in overlapping:
        lengths = [math.sin(w * (end - start) / 2) / (w * (end - start) / 2) for w in FREQS]
        scale = sum(lengths) / NUM_PAIRS
        slow_events.append([cmath.exp(1j * w * (start + end) / 2) * length / scale
                            for w, length in zip(FREQS, lengths, strict=True)])
    assert torch.allclose(frames[0], torch.tensor(slow_frames, dtype=torch.complex128))
    assert torch.allclose(events[0], torch.tensor(slow_events, dtype=torch.complex128))


def test_all_tokens_of_a_frame_and_of_an_event_turn_alike() -> None:
    (queries, _), (keys, _) = event_rotary("rerope", torch.tensor([EVENTS]), T, 4, 5, 2 * NUM_PAIRS, THETA)
    frames, events = rerope_tables(torch.tensor([EVENTS]), T, temporal_freqs(NUM_PAIRS, THETA))
    assert queries.shape == (1, T * 4, 1, NUM_PAIRS)
    assert keys.shape == (1, 3 * 5, 1, NUM_PAIRS)
    for token in range(T * 4):
        assert torch.equal(queries[0, token, 0], frames[0, token // 4].real.float())
    for token in range(3 * 5):
        assert torch.equal(keys[0, token, 0], events[0, token // 5].real.float())


@pytest.mark.parametrize("encoding", EVENT_ENCODINGS)
def test_masked_tokens_count_for_nothing(encoding: str) -> None:
    torch.manual_seed(0)
    heads, head_dim = 2, 2 * NUM_PAIRS
    dim = heads * head_dim
    attention = WanAttention(dim, heads, head_dim, cross_attention_dim_head=head_dim, processor=EventAttnProcessor())
    video, text = torch.randn(1, T, dim), torch.randn(1, 9, dim)
    mask = torch.tensor([1, 1, 0, 1, 0, 0, 1, 1, 1]).bool().view(1, 1, 1, 9)
    rotary = event_rotary(encoding, torch.tensor([EVENTS]), T, 1, 3, head_dim, THETA)
    other = torch.where(mask.view(1, 9, 1), text, torch.randn_like(text))
    before = attention(video, text, attention_mask=mask, rotary_emb=rotary)
    assert torch.equal(before, attention(video, other, attention_mask=mask, rotary_emb=rotary))

    kept = mask.flatten()
    (query_cos, query_sin), (key_cos, key_sin) = rotary
    short = (query_cos, query_sin), (key_cos[:, kept], key_sin[:, kept])
    left_out = attention(video, text[:, kept], attention_mask=None, rotary_emb=short)
    assert torch.allclose(before, left_out, atol=1e-6)


def test_a_frame_attends_most_to_its_own_event() -> None:
    """With equal content, the logit is the mean cosine of the positions: it is highest for the event around a frame."""
    freqs = temporal_freqs(64, 10000.0)
    spans = [(0.0, 2.0), (2.25, 5.0), (5.25, 8.0)]
    for tables in (rerope_tables, tie_tables):
        frames, events = tables(torch.tensor([spans]), T, freqs)
        logits = (frames[0].unsqueeze(1) * events[0].conj()).real.mean(-1)
        assert logits.argmax(1).tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
