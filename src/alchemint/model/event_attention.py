"""The event branch: timed captions through a text cross-attention of their own, parallel to the prompt's.

Position comes by rotary embedding over all of a head's channels:

    rerope   MinT, arXiv 2412.05263: inside event n (span [s_n, e_n]) a video token's time t becomes
             (t - s_n) L / (e_n - s_n) + (n - 1) L, and event n's text sits at (n - 1/2) L. Between two events a token
             rests on the border between them. Events may not overlap.
    tie      TIE, arXiv 2605.10543: event n's text takes the tie multiplier of its span, a video token its own frame.
             Events may overlap.

Shapes: B batch, E events, M text tokens an event, T latent frames, D head channels, K = D / 2 channel pairs.
"""

import torch
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from diffusers.models.transformers.transformer_wan import WanAttention
from einops import repeat

from alchemint.model.encodings import Intervals, WeropeWeights, phase, temporal_freqs, tie

Tensor = torch.Tensor
Rotary = tuple[Tensor, Tensor]

EVENT_LENGTH = 8.0
"""L: how far apart two events' texts sit on the rescaled axis."""


def rerope_tables(spans: Tensor, num_latents: int, freqs: Tensor) -> tuple[Tensor, Tensor]:
    """Return complex tables of video frames (B, T, K) and of events (B, E, K) for spans (B, E, 2) in order of time."""
    times = torch.arange(num_latents, dtype=torch.float64, device=spans.device).view(1, -1, 1)
    start, end = spans.double().unsqueeze(1).unbind(-1)                                      # (B, 1, E)
    passed = ((times - start) / (end - start).clamp(min=1e-6)).clamp(0, 1)                   # (B, T, E)
    rescaled = EVENT_LENGTH * passed.sum(-1, keepdim=True)                                   # (B, T, 1)
    centres = EVENT_LENGTH * (torch.arange(spans.shape[1], device=spans.device) + 0.5)
    return phase(rescaled, freqs), phase(centres.view(1, -1, 1), freqs).expand(spans.shape[0], -1, -1)


def tie_tables(spans: Tensor, num_latents: int, freqs: Tensor) -> tuple[Tensor, Tensor]:
    """Return complex tables of video frames (B, T, K) and of events (B, E, K) for spans (B, E, 2); any overlap."""
    times = torch.arange(num_latents, dtype=torch.float64, device=spans.device).view(1, -1, 1)
    intervals = Intervals(spans, torch.zeros_like(spans[..., 0]), num_latents)
    return phase(times, freqs).expand(spans.shape[0], -1, -1), tie(intervals, freqs, WeropeWeights())


EVENT_ENCODINGS = {"rerope": rerope_tables, "tie": tie_tables}


def event_rotary(encoding: str, spans: Tensor, num_latents: int, tokens_per_frame: int, tokens_per_event: int,
                 head_dim: int, theta: float) -> tuple[Rotary, Rotary]:
    """Return the (cos, sin) of all video tokens and of all event tokens, each (B, tokens, 1, K) float32."""
    freqs = temporal_freqs(head_dim // 2, theta, spans.device)
    frames, events = EVENT_ENCODINGS[encoding](spans, num_latents, freqs)
    queries = repeat(frames, "b t k -> b (t hw) 1 k", hw=tokens_per_frame)
    keys = repeat(events, "b e k -> b (e m) 1 k", m=tokens_per_event)
    return (queries.real.float(), queries.imag.float()), (keys.real.float(), keys.imag.float())


class EventAttnProcessor:
    """Cross-attention with one rotary table for the queries and another for the keys, and a mask of the keys.

    It stays with torch's own attention whatever backend the model is set to: most others take no mask.
    """

    def __call__(self, attn: WanAttention, hidden_states: Tensor, encoder_hidden_states: Tensor,
                 attention_mask: Tensor | None = None,
                 rotary_emb: tuple[Rotary, Rotary] | None = None) -> Tensor:
        """Attend from video tokens (B, tokens, dim) to event tokens (B, E * M, dim).

        attention_mask: (B, 1, 1, E * M) bool, true for tokens that hold text.
        """
        assert rotary_emb is not None
        query = attn.norm_q(attn.to_q(hidden_states)).unflatten(2, (attn.heads, -1))
        key = attn.norm_k(attn.to_k(encoder_hidden_states)).unflatten(2, (attn.heads, -1))
        value = attn.to_v(encoder_hidden_states).unflatten(2, (attn.heads, -1))
        query, key = rotate(query, *rotary_emb[0]), rotate(key, *rotary_emb[1])
        attended = dispatch_attention_fn(query, key, value, attn_mask=attention_mask,
                                         backend=AttentionBackendName.NATIVE)
        return attn.to_out[1](attn.to_out[0](attended.flatten(2, 3).type_as(query)))


def rotate(hidden_states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn channel pairs (a + ib) of (B, tokens, heads, D) by cos + i sin of (B, tokens, 1, K)."""
    real, imaginary = hidden_states.unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([real * cos - imaginary * sin, real * sin + imaginary * cos], dim=-1)
    return turned.flatten(-2).type_as(hidden_states)
