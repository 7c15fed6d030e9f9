"""Self-attention over [video | conditions], where conditions are reference and word-tag tokens.

    full      every token sees every other: stock Wan attention over one long sequence.
    one_way   video tokens see all, conditions see conditions alone. Then nothing of a condition depends on the video or
              its timestep: its keys and values, computed once, serve every step of sampling.

Either way the weights are Wan's own, and the rotary tables tell in which interval a reference counts; of a model that
was trained without intervals a gate may tell it (`interval_gate`).
"""

from collections import deque
from typing import NamedTuple

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.transformers.transformer_wan import WanAttention, WanAttnProcessor, _get_qkv_projections

from alchemint.model.attention_guide import AttentionGuide, guided_loss
from alchemint.model.context_parallel import ContextParallel, SegmentLengths
from alchemint.model.event_attention import Rotary, rotate
from alchemint.model.interval_gate import IntervalGate, gated_attention

Tensor = torch.Tensor

REFERENCE_ATTENTIONS = ("full", "one_way")


class KeysValues(NamedTuple):
    """The conditions' keys, turned by their rotary tables, and their values: each (B, tokens, heads, D).

    Where several processes make one video, all tokens of this process's share of the heads.
    """

    keys: Tensor
    values: Tensor


class Attending(NamedTuple):
    """How the tokens of a forward pass see each other.

    lengths: those of the whole sequence. one_way: whether conditions are blind to the video. kept: the conditions' keys
    and values of before, instead of their tokens; keep: what to put them in (a deque, since offloading hooks pass on
    copies of lists). context: who makes the same video. gate: what weakens references outside their intervals.
    guide: what this block's attention is trained to look up.
    """

    lengths: SegmentLengths
    one_way: bool = False
    kept: KeysValues | None = None
    keep: deque[KeysValues] | None = None
    context: ContextParallel | None = None
    gate: IntervalGate | None = None
    guide: AttentionGuide | None = None

    @property
    def is_plain(self) -> bool:
        """Whether it is Wan's own attention, all tokens seeing all."""
        return not (self.one_way and self.lengths.conditions) and self.kept is None and self.keep is None \
            and self.context is None and self.gate is None and self.guide is None


class AlchemintAttnProcessor(WanAttnProcessor):
    """Wan's attention processor, for sequences with conditions and those that several processes share."""

    def __call__(self, attn: WanAttention, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None,
                 attention_mask: Tensor | None = None, rotary_emb: Rotary | None = None,
                 attending: Attending | None = None) -> Tensor:
        """Attend over (B, tokens, dim) to itself; rotary_emb is that of `AlchemintRotaryPosEmbed`."""
        if attending is None:
            attended: Tensor = super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, rotary_emb)
            return attended

        # 1. Queries, keys and values; of all tokens, if others hold some of them
        query, key, value = _get_qkv_projections(attn, hidden_states, None)
        query, key, value = (part.unflatten(2, (attn.heads, -1))
                             for part in (attn.norm_q(query), attn.norm_k(key), value))
        if rotary_emb is not None:
            cos, sin = (table[..., 0::2] for table in rotary_emb)
            query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        if attending.context is not None:
            query, key, value = (attending.context.to_heads(part, attending.lengths) for part in (query, key, value))

        if attending.guide is not None:
            attending.guide.losses.append(guided_loss(query, key, attending.guide))

        # 2. Attention, for each segment to what it sees
        num_video, num_conditions = attending.lengths
        seen: tuple[Tensor, Tensor] = (key, value) if attending.kept is None else (
            torch.cat([key, attending.kept.keys], 1), torch.cat([value, attending.kept.values], 1))
        if num_video and (attending.gate is not None or (attending.one_way and num_conditions)):
            parts = [self._attend(query[:, :num_video], *seen) if attending.gate is None else
                     gated_attention(query[:, :num_video], *seen, attending.gate, self._attention_backend)]
            if num_conditions:
                first = num_video if attending.one_way else 0
                parts.append(self._attend(query[:, num_video:], key[:, first:], value[:, first:]))
            joined = torch.cat(parts, dim=1)
        else:
            joined = self._attend(query, *seen)

        # 3. Back to this process's tokens, and out
        if attending.context is not None:
            joined = attending.context.to_tokens(joined, attending.lengths)
        if attending.keep is not None:
            attending.keep.append(KeysValues(key, value))
        output: Tensor = attn.to_out[1](attn.to_out[0](joined.flatten(2, 3).type_as(hidden_states)))
        return output

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        attended: Tensor = dispatch_attention_fn(query, key, value, backend=self._attention_backend)
        return attended
