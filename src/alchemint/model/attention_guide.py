"""Teaches self-attention where in a reference a video token's subject is to be looked up, where that is known.

A token that shows a spot of a subject, and the reference's tokens around the same spot: given such pairs, the guided
heads' attention is trained by cross-entropy to go there, head by head to one of the four neighbours of the spot (above
or below, left or right), so that together they bring all that is needed to draw it.

    loss = - mean over a sample's pairs of  log softmax_j(q k_j / sqrt(D)) at the neighbour's token,  over all keys j

Supervising attention by known correspondences is what CAMEO (arXiv 2512.03045) does for views of a scene. Training
alone knows of it: the model, and what it costs in use, stay as they are.

    B batch, P pairs, K keys, D head channels
"""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import torch

Tensor = torch.Tensor

NUM_CORNERS = 4


class AttentionGuide(NamedTuple):
    """Which tokens are to look where, and the losses of the blocks that were guided.

    blocks: their numbers. queries (B, P): video tokens. keys (B, P, 4): the tokens of the reference around the spot.
    weights (B, P): 0 for pairs that only fill up. losses: what the forward pass appends to, a scalar for each block.
    """

    blocks: tuple[int, ...]
    queries: Tensor
    keys: Tensor
    weights: Tensor
    losses: deque[Tensor]


def guided_loss(query: Tensor, key: Tensor, guide: AttentionGuide) -> Tensor:
    """Return the cross-entropy of one block's attention, from queries and keys (B, K, heads, D), turned already.

    Head h is guided to corner h % 4. Samples count alike, however many pairs they have; those without any, as zero. So
    a batch's loss is the mean of its parts'.
    """
    num_heads, dim = query.shape[2:]
    picked = query.gather(1, guide.queries[..., None, None].expand(-1, -1, num_heads, dim))
    logits = torch.einsum("bphd,bkhd->bhpk", picked, key).float() / dim ** 0.5
    corners = torch.arange(num_heads, device=query.device) % NUM_CORNERS
    wanted = guide.keys[..., corners].transpose(1, 2).unsqueeze(-1)
    entropy = logits.logsumexp(-1) - logits.gather(-1, wanted).squeeze(-1)
    of_samples = (entropy.mean(1) * guide.weights).sum(1) / guide.weights.sum(1).clamp(min=1)
    return of_samples.mean()


def pairs_of(places: Tensor, per_frame: int, width: int, num_pairs: int,
             generators: Sequence[torch.Generator | None]) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries (B, P), keys (B, P, 4) and weights (B, P) of `num_pairs` tokens drawn from those with a place.

    places: (B, N, T, h, w, 2), where in reference n's grid of tokens (y, x; token i covers i .. i+1) the spot lies that
    a video token shows; NaN where it shows none. per_frame, width: the tokens of a frame and of a row. References'
    tokens follow the video's. A token has a place in one reference at most. generators: one for each sample.
    """
    num_frames = places.shape[2]
    height = per_frame // width
    flat = places.flatten(2, 4)
    known = ~flat[..., 0].isnan()
    rank = known * torch.stack([torch.rand(known.shape[1:], generator=one, device=places.device) for one in generators])
    score, picked = rank.flatten(1).topk(min(num_pairs, rank[0].numel()), dim=1)
    reference, query = picked // (num_frames * per_frame), picked % (num_frames * per_frame)
    spot = flat.flatten(1, 2).gather(1, picked.unsqueeze(-1).expand(-1, -1, 2)).nan_to_num(0.0) - 0.5
    low = spot.floor()
    rows = torch.stack([low[..., 0], low[..., 0], low[..., 0] + 1, low[..., 0] + 1], -1).clamp(0, height - 1)
    columns = torch.stack([low[..., 1], low[..., 1] + 1, low[..., 1], low[..., 1] + 1], -1).clamp(0, width - 1)
    first = (num_frames + reference).unsqueeze(-1) * per_frame
    return query, (first + rows * width + columns).long(), (score > 0).float()
