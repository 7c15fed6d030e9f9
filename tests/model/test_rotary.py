"""The rotary tables against Wan's own, and against explicit rotations of complex numbers."""

import cmath
import math

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanAttention, WanAttnProcessor, WanRotaryPosEmbed

from alchemint.model.encodings import ENCODINGS, Intervals, WeropeWeights, temporal_freqs
from alchemint.model.rotary import AlchemintRotaryPosEmbed

NUM_WORD_TOKENS = 3
SPANS = torch.tensor([[[0.0, 2.0], [1.5, 2.375]], [[0.625, 0.625], [0.0, 2.375]]])
INDICES = torch.tensor([[0, 1], [5, 0]])


def new_rope(head_dim: int = 24, encoding: str = "werope", theta: float = 10000.0) -> AlchemintRotaryPosEmbed:
    return AlchemintRotaryPosEmbed(head_dim, (1, 2, 2), encoding, WeropeWeights(), NUM_WORD_TOKENS, theta)


def complex_table(tables: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """(B, tokens, K) complex from the (B, tokens, 1, D) cos and sin that Wan's attention reads."""
    cos, sin = tables
    return torch.complex(cos[:, :, 0, 0::2].double(), sin[:, :, 0, 1::2].double())


@pytest.mark.parametrize("head_dim", [24, 32, 128])
@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 4, 10), (6, 10, 4)])
def test_the_video_part_is_wans(head_dim: int, shape: tuple[int, int, int]) -> None:
    latents = torch.zeros(2, 4, *shape)
    stock = WanRotaryPosEmbed(head_dim, (1, 2, 2), max_seq_len=64)(latents)
    num_video_tokens = shape[0] * shape[1] * shape[2] // 4
    for spans in ((), (SPANS, INDICES)):
        for ours, theirs in zip(new_rope(head_dim)(latents, *spans), stock, strict=True):
            assert torch.equal(ours[:, :num_video_tokens], theirs.expand(len(ours), -1, -1, -1))


@pytest.mark.parametrize("time", [0, 1, 2])
def test_a_reference_at_an_instant_turns_as_a_frame_there(time: int) -> None:
    latents = torch.zeros(1, 4, 3, 6, 8)
    table = complex_table(new_rope(encoding="mid")(latents, torch.full((1, 1, 2), float(time)), torch.zeros(1, 1)))
    frame = table[:, 12 * time:12 * (time + 1)]
    assert torch.equal(table[:, 36:48], frame)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_token_against_a_loop(encoding: str) -> None:
    """[video | references | word tags], each pair turned by its multiplier in time and by its place in y and x."""
    frames, height, width, theta = 3, 2, 3, 50.0
    table = complex_table(new_rope(24, encoding, theta)(torch.zeros(2, 4, frames, 2 * height, 2 * width),
                                                        SPANS, INDICES))
    temporal, spatial = [theta ** (-k / 4) for k in range(4)], [theta ** (-k / 4) for k in range(4)]

    def turned(multiplier: list[complex], y: int, x: int) -> list[complex]:
        return [*multiplier, *(cmath.exp(1j * y * w) for w in spatial), *(cmath.exp(1j * x * w) for w in spatial)]

    for row in range(2):
        multipliers = ENCODINGS[encoding](Intervals(SPANS[row], INDICES[row], frames), temporal_freqs(4, theta),
                                          WeropeWeights()).tolist()
        expected = [turned([cmath.exp(1j * t * w) for w in temporal], y, x)
                    for t in range(frames) for y in range(height) for x in range(width)]
        expected += [turned(m, y, x) for m in multipliers for y in range(height) for x in range(width)]
        expected += [turned(m, height + j, width + j) for m in multipliers for j in range(NUM_WORD_TOKENS)]
        assert torch.allclose(table[row], torch.tensor(expected, dtype=torch.complex128), atol=1e-6)


def test_tables_stay_float32_in_a_model_of_any_type() -> None:
    latents = torch.zeros(1, 4, 3, 4, 4)
    exact = new_rope()(latents, SPANS[:1], INDICES[:1])
    for dtype in (torch.bfloat16, torch.float64):
        rope = new_rope().to(dtype)
        for cast, table in zip(rope(latents.to(dtype), SPANS[:1], INDICES[:1]), exact, strict=True):
            assert cast.dtype == torch.float32
            assert torch.equal(cast, table)


def test_attention_with_the_table_is_attention_of_turned_complex_numbers() -> None:
    """Wan's attention module, handed our table, against loops over heads and tokens."""
    torch.manual_seed(0)
    heads, head_dim = 2, 12
    attention = WanAttention(heads * head_dim, heads, head_dim, processor=WanAttnProcessor()).double()
    table = new_rope(head_dim, "contrast")(torch.zeros(1, 4, 2, 2, 2), SPANS[1:], INDICES[1:])
    num_tokens = table[0].shape[1]
    tokens = torch.randn(1, num_tokens, heads * head_dim, dtype=torch.float64)
    output = attention(tokens, None, None, table)[0]

    def complex_pairs(states: torch.Tensor, head: int) -> list[list[complex]]:
        part = states[0, :, head * head_dim:(head + 1) * head_dim].tolist()
        return [[complex(row[2 * k], row[2 * k + 1]) for k in range(head_dim // 2)] for row in part]

    turns = complex_table(table)[0].tolist()
    attended = torch.zeros(num_tokens, heads * head_dim, dtype=torch.float64)
    for head in range(heads):
        queries, keys = (
            [[z * m for z, m in zip(row, turn, strict=True)] for row, turn in zip(rows, turns, strict=True)]
            for rows in (complex_pairs(attention.norm_q(attention.to_q(tokens)), head),
                         complex_pairs(attention.norm_k(attention.to_k(tokens)), head)))
        values = attention.to_v(tokens)[0, :, head * head_dim:(head + 1) * head_dim]
        for number, query in enumerate(queries):
            logits = [sum((q * k.conjugate()).real for q, k in zip(query, key, strict=True)) / math.sqrt(head_dim)
                      for key in keys]
            shares = [math.exp(logit - max(logits)) for logit in logits]
            attended[number, head * head_dim:(head + 1) * head_dim] = sum(
                share / sum(shares) * value for share, value in zip(shares, values, strict=True))
    assert torch.allclose(output, attention.to_out[0](attended), atol=1e-6)


def test_an_unknown_encoding_is_named_with_those_that_exist() -> None:
    with pytest.raises(ValueError, match=r'"wrope" is unknown; use one of untimed, mid, werope'):
        new_rope(encoding="wrope")
