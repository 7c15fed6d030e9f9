"""The rotary tables of the whole sequence [video | reference 1..N | word tags 1..N], out of one module.

Every head's channels are split in (time, y, x) as Wan does. Video tokens take stock rotations of their grid position.
Reference tokens take stock y and x rotations and, on the temporal channels, their interval's multiplier
(`encodings`). Word-tag token j sits at (height + j, width + j), on the diagonal beyond the frame, with the same
temporal multiplier as its reference.

Tables are computed in float64 and returned in float32: there is nothing stored that a cast of the model could round.
Shapes: B batch, N references, T x h x w video tokens, L word-tag tokens a reference, D head channels.
"""

import torch
from einops import rearrange, repeat
from torch import nn

from alchemint.model.encodings import ENCODINGS, Intervals, WeropeWeights, phase, temporal_freqs

Tensor = torch.Tensor


class AlchemintRotaryPosEmbed(nn.Module):
    """Rotary tables for video, reference and word-tag tokens.

    interval_encoding is a name of `encodings.ENCODINGS`; num_word_tokens is L.
    """

    def __init__(self, attention_head_dim: int, patch_size: tuple[int, ...], interval_encoding: str,
                 weights: WeropeWeights, num_word_tokens: int, theta: float) -> None:
        super().__init__()
        if interval_encoding not in ENCODINGS:
            raise ValueError(f'interval_encoding "{interval_encoding}" is unknown; use one of {", ".join(ENCODINGS)}')
        self.patch_size = patch_size
        self.num_spatial_pairs = attention_head_dim // 6
        self.num_temporal_pairs = attention_head_dim // 2 - 2 * self.num_spatial_pairs
        self.interval_encoding = interval_encoding
        self.weights = weights
        self.num_word_tokens = num_word_tokens
        self.theta = theta

    def forward(self, hidden_states: Tensor, spans: Tensor | None = None,
                indices: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the cos and sin tables for latents (B, C, T, H, W) and references' spans (B, N, 2), indices (B, N).

        Both are (B, tokens, 1, D) float32, B = 1 where there are no references; each pair's value stands twice, the
        layout that Wan's attention processor reads.
        """
        num_frames, height, width = (
            size // patch for size, patch in zip(hidden_states.shape[2:], self.patch_size, strict=True))
        device = hidden_states.device
        spatial_freqs = temporal_freqs(self.num_spatial_pairs, self.theta, device)
        temporal = temporal_freqs(self.num_temporal_pairs, self.theta, device)
        positions = torch.arange(max(num_frames, height, width) + self.num_word_tokens, device=device).unsqueeze(-1)
        times = phase(positions, temporal)
        places = phase(positions, spatial_freqs)
        grid = torch.cat([repeat(places[:height], "h k -> (h w) k", w=width),
                          repeat(places[:width], "w k -> (h w) k", h=height)], dim=-1)
        video = torch.cat([repeat(times[:num_frames], "t k -> (t hw) k", hw=height * width),
                           repeat(grid, "hw k -> (t hw) k", t=num_frames)], dim=-1)
        table = video.unsqueeze(0)
        if spans is not None and spans.shape[1] > 0:
            assert indices is not None
            multipliers = ENCODINGS[self.interval_encoding](
                Intervals(spans, indices, num_frames), temporal, self.weights)
            diagonal = torch.cat([places[height:height + self.num_word_tokens],
                                  places[width:width + self.num_word_tokens]], dim=-1)
            table = torch.cat([table.expand(spans.shape[0], -1, -1), _tokens(multipliers, grid),
                               _tokens(multipliers, diagonal)], dim=1)
        table = repeat(table, "b tokens pairs -> b tokens 1 (pairs two)", two=2)
        return table.real.float(), table.imag.float()


def _tokens(multipliers: Tensor, places: Tensor) -> Tensor:
    """Join temporal multipliers (B, N, Kt) and spatial rotations (tokens, Ks) to (B, N * tokens, Kt + Ks)."""
    batch, num_references, _ = multipliers.shape
    temporal = repeat(multipliers, "b n k -> b n tokens k", tokens=places.shape[0])
    spatial = repeat(places, "tokens k -> b n tokens k", b=batch, n=num_references)
    return rearrange(torch.cat([temporal, spatial], dim=-1), "b n tokens k -> b (n tokens) k")
