"""What a video is conditioned on, besides the prompt: timed references and timed captions, and the new embeddings.

Both are named tuples of tensors, so that offloading and device-placement hooks, which move tensors within tuples,
work on them. Shapes: B batch, N references, L word tokens a reference, E events, M text tokens an event.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from diffusers.models.embeddings import PixArtAlphaTextProjection
from torch import nn

from alchemint.timeline import LatentSpan

Tensor = torch.Tensor


class References(NamedTuple):
    """Reference images with the intervals in which they count.

    latents: (B, N, C, H, W), each image encoded as a one-frame video at the video's own size, normalised; zeros for
        a dropped image (the null condition; its interval stays).
    spans: (B, N, 2) float, [t0, t1] on the latent axis.
    indices: (B, N) int, the subject's index; views and intervals of one subject share it.
    word_embeds: (B, N, L, text_dim), the entity word through the prompt's text encoder.
    word_mask: (B, N, L) bool, true where word_embeds holds a token of the word.
    """

    latents: Tensor
    spans: Tensor
    indices: Tensor
    word_embeds: Tensor
    word_mask: Tensor


class Events(NamedTuple):
    """Timed captions.

    embeds: (B, E, M, text_dim), each caption through the text encoder. mask: (B, E, M) bool, true for its tokens.
    spans: (B, E, 2) float, on the latent axis, in order of time.
    """

    embeds: Tensor
    mask: Tensor
    spans: Tensor


def pad_events(events: Sequence[Sequence[tuple[LatentSpan, str]]],
               num_latents: int) -> tuple[list[str], Tensor, Tensor]:
    """Bring the timed captions of a batch to one number, at least one, with empty ones that lie after the video.

    Returns the B * E texts, the spans (B, E, 2) float32, and (B, E) bool, false for padding.
    """
    most = max([1, *map(len, events)])
    after = ((float(num_latents), num_latents + 1.0), "")
    padded = [[*row, *[after] * (most - len(row))] for row in events]
    return ([caption for row in padded for _, caption in row],
            torch.tensor([[span for span, _ in row] for row in padded], dtype=torch.float32),
            torch.tensor([[number < len(row) for number in range(most)] for row in events]))


class WordTags(nn.Module):
    """Projects entity words to a fixed number of tokens; the rest is a learned pad token.

    Fixed, so that the sequence's length depends on the number of references alone.
    """

    def __init__(self, text_dim: int, dim: int) -> None:
        super().__init__()
        self.projection = PixArtAlphaTextProjection(text_dim, dim, act_fn="gelu_tanh")
        self.pad = nn.Embedding(1, dim)

    def forward(self, word_embeds: Tensor, word_mask: Tensor) -> Tensor:
        """Project (B, N, L, text_dim) with mask (B, N, L) to (B, N, L, dim)."""
        pad = self.pad(torch.zeros_like(word_mask, dtype=torch.long))
        return torch.where(word_mask.unsqueeze(-1), self.projection(word_embeds), pad.to(word_embeds.dtype))
