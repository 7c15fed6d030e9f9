"""The gate on references outside their intervals: its rows against timelines, its attention against a dense mask, and
the whole model where the gate is open, where it is shut, and in between."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import combinations_with_replacement
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from alchemint import timeline
from alchemint.denoising import Conditions, Evaluating, Expert, GuidedVelocity, steps
from alchemint.diffusion.guidance import Branch, Guidance
from alchemint.model.attention import Attending, KeysValues
from alchemint.model.conditions import References
from alchemint.model.context_parallel import SegmentLengths
from alchemint.model.interval_gate import gated_attention, interval_bias, interval_gate
from alchemint.model.transformer import AlchemintTransformer3DModel

NewTransformer = Callable[..., AlchemintTransformer3DModel]

BATCH, TEXT_DIM, NUM_WORD_TOKENS = 2, 16, 4
GRID = (4, 2, 3)
PER_FRAME, NUM_VIDEO = 6, 24
SHUT = 1e4
"""A strength that leaves nothing."""

SPANS = torch.tensor([[[0.0, 1.375], [2.625, 3.375]], [[0.625, 1.875], [0.0, 3.375]]])
"""Two references in each of two storyboards of four latent frames."""

BEYOND = torch.tensor([10.0, 12.0]).expand(BATCH, 2, 2)
"""Intervals that no latent frame is near."""


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def references_of(spans: torch.Tensor) -> References:
    return References(random(BATCH, 2, 4, 4, 6, seed=2), spans, torch.tensor([[0, 1]] * BATCH),
                      random(BATCH, 2, NUM_WORD_TOKENS, TEXT_DIM, seed=3),
                      torch.ones(BATCH, 2, NUM_WORD_TOKENS).bool())


def inputs_of(spans: torch.Tensor = SPANS) -> dict[str, Any]:
    return {"hidden_states": random(BATCH, 4, 4, 4, 6), "timestep": torch.tensor([900.0, 250.0]),
            "encoder_hidden_states": random(BATCH, 7, TEXT_DIM, seed=1), "references": references_of(spans)}


def sample_of(model: AlchemintTransformer3DModel, **inputs: Any) -> torch.Tensor:
    with torch.no_grad():
        sample: torch.Tensor = model(**inputs).sample
    return sample


def dense_bias(spans: torch.Tensor, strength: float) -> torch.Tensor:
    """The whole mask (B, V, V + R), one number after the other."""
    bias = torch.zeros(BATCH, NUM_VIDEO, NUM_VIDEO + 2 * PER_FRAME + 2 * NUM_WORD_TOKENS)
    for row in range(BATCH):
        for query in range(NUM_VIDEO):
            time = query // PER_FRAME
            for number, (start, end) in enumerate(spans[row].tolist()):
                outside = start - time if time < start else time - end if time > end else 0.0
                weakened = -strength * min(1.0, outside / 0.5)
                first = NUM_VIDEO + number * PER_FRAME
                bias[row, query, first:first + PER_FRAME] = weakened
                first = NUM_VIDEO + 2 * PER_FRAME + number * NUM_WORD_TOKENS
                bias[row, query, first:first + NUM_WORD_TOKENS] = weakened
    return bias


def dense_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
                    bias: torch.Tensor | float) -> torch.Tensor:
    logits = torch.einsum("bqhd,bkhd->bhqk", query.double(), key.double()) / query.shape[-1] ** 0.5
    weights = (logits + (bias.double().unsqueeze(1) if isinstance(bias, torch.Tensor) else bias)).softmax(-1)
    return torch.einsum("bhqk,bkhd->bqhd", weights, value.double())


# The bias


@pytest.mark.parametrize("num_frames", [1, 5, 17])
def test_latents_inside_are_free_and_those_without_a_frame_inside_get_the_whole_strength(num_frames: int) -> None:
    num_latents = timeline.num_latents(num_frames)
    for first, last in combinations_with_replacement(range(num_frames), 2):
        span = torch.tensor([[timeline.latent_span((first, last))]])
        (row,) = interval_bias(span, num_latents, 7.0)[..., 0].tolist()
        for latent, bias in enumerate(row):
            start, end = timeline.frames_of_latent(latent)
            inside = sum(first <= frame <= last for frame in range(start, end + 1))
            if inside == 0:
                assert bias == -7.0, (first, last, latent)
            elif inside == end + 1 - start:
                assert bias == 0.0, (first, last, latent)
            else:
                assert -7.0 < bias <= 0.0, (first, last, latent)


def test_the_gate_closes_evenly_over_its_softness() -> None:
    bias = interval_bias(torch.tensor([[[1.75, 2.0]]]), 5, 8.0, softness=1.5)
    assert bias.flatten().tolist() == pytest.approx([-8.0, -4.0, 0.0, -8 / 1.5, -8.0])


@pytest.mark.parametrize("strength", [-1.0, float("inf"), float("nan")])
def test_a_strength_is_finite_and_not_negative(strength: float, new_transformer: NewTransformer) -> None:
    with pytest.raises(ValueError, match=r"reference_gate is .*; use a number from 0"):
        new_transformer()(**inputs_of(), reference_gate=strength)
    with pytest.raises(ValueError, match="reference_gate is"):
        Evaluating(reference_gate=strength)


# Attention


@pytest.mark.parametrize("spans", [SPANS, BEYOND, torch.tensor([0.0, 3.375]).expand(BATCH, 2, 2)],
                         ids=["some", "never", "always"])
@pytest.mark.parametrize(("dtype", "backend"), [
    (torch.float32, None), (torch.bfloat16, None), (torch.bfloat16, "_native_flash")], ids=str)
def test_attention_is_that_of_a_dense_mask(spans: torch.Tensor, dtype: torch.dtype, backend: str | None) -> None:
    """Flash attention takes no mask: it serves the frames that need none, and raises an error if it is given one."""
    num_keys = NUM_VIDEO + 2 * (PER_FRAME + NUM_WORD_TOKENS)
    query = random(BATCH, NUM_VIDEO, 3, 16).to(dtype).requires_grad_()
    key = random(BATCH, num_keys, 3, 16, seed=1).to(dtype).requires_grad_()
    value = random(BATCH, num_keys, 3, 16, seed=2).to(dtype)
    gate = interval_gate(spans, GRID, NUM_WORD_TOKENS, 3.0)
    expected = dense_attention(query, key, value, dense_bias(spans, 3.0))
    attended = gated_attention(query, key, value, gate, backend)
    worst = 1e-6 if dtype == torch.float32 else 3e-2
    assert (attended - expected).abs().max() < worst
    for mine, theirs in zip(torch.autograd.grad(attended.square().sum(), (query, key)),
                            torch.autograd.grad(expected.square().sum(), (query, key)), strict=True):
        assert (mine - theirs).norm() < worst * theirs.norm()


def test_frames_with_one_bias_run_together_and_need_a_mask_only_where_there_is_one() -> None:
    spans = torch.tensor([[[2.625, 5.375]]])
    gate = interval_gate(spans, (9, 2, 3), NUM_WORD_TOKENS, 3.0)
    assert [tuple(run) for run in gate.runs] == [(0, 18, False), (18, 36, True), (36, 54, False)]
    assert gate.bias.shape == (1, 3, 54 + 6 + 4)
    half = interval_gate(torch.tensor([[[2.625, 5.375]], [[3.125, 5.375]]]), (9, 2, 3), NUM_WORD_TOKENS, 3.0)
    assert [tuple(run) for run in half.runs] == [(0, 18, False), (18, 24, False), (24, 36, True), (36, 54, False)]


@pytest.mark.parametrize("reference_attention", ["full", "one_way"])
def test_only_video_queries_are_gated(reference_attention: str, new_transformer: NewTransformer) -> None:
    """Of a block's self-attention: each kind of query against its own dense mask."""
    model = new_transformer(reference_attention=reference_attention)
    attention = model.blocks[0].attn1
    num_conditions = 2 * (PER_FRAME + NUM_WORD_TOKENS)
    hidden = random(BATCH, NUM_VIDEO + num_conditions, 48)
    lengths = SegmentLengths(NUM_VIDEO, num_conditions)
    gate = interval_gate(SPANS, GRID, NUM_WORD_TOKENS, 3.0)
    with torch.no_grad():
        query, key = attention.norm_q(attention.to_q(hidden)), attention.norm_k(attention.to_k(hidden))
        query, key, value = (part.unflatten(2, (2, -1)) for part in (query, key, attention.to_v(hidden)))
        first = 0 if reference_attention == "full" else NUM_VIDEO
        joined = torch.cat([dense_attention(query[:, :NUM_VIDEO], key, value, dense_bias(SPANS, 3.0)),
                            dense_attention(query[:, NUM_VIDEO:], key[:, first:], value[:, first:], 0.0)], dim=1)
        expected = attention.to_out[0](joined.flatten(2).float())
        attending = Attending(lengths, reference_attention == "one_way", gate=gate)
        assert (attention(hidden, attending=attending) - expected).abs().max() < 1e-5

        kept = KeysValues(key[:, NUM_VIDEO:], value[:, NUM_VIDEO:])
        attending = Attending(SegmentLengths(NUM_VIDEO, 0), kept=kept, gate=gate)
        alone = attention(hidden[:, :NUM_VIDEO], attending=attending)
        assert (alone - expected[:, :NUM_VIDEO]).abs().max() < 1e-5


@contextmanager
def attended_by(model: AlchemintTransformer3DModel) -> Iterator[list[torch.Tensor]]:
    """Note what the first block's self-attention gives, (B, tokens, dim)."""
    noted: list[torch.Tensor] = []
    hook = model.blocks[0].attn1.register_forward_hook(lambda _module, _args, output: noted.append(output))
    try:
        yield noted
    finally:
        hook.remove()


def test_a_shut_gate_takes_the_keys_away_and_leaves_frames_inside_alone(new_transformer: NewTransformer) -> None:
    model = new_transformer()
    inside = torch.tensor([0.625, 2.375]).expand(BATCH, 2, 2)
    with attended_by(model) as noted:
        sample_of(model, **inputs_of(inside), reference_gate=SHUT)
        sample_of(model, **inputs_of(inside))
        sample_of(model, **{**inputs_of(), "references": None})
    gated, ungated, alone = (output[:, :NUM_VIDEO].unflatten(1, (4, -1)) for output in noted)
    assert (gated[:, [0, 3]] - alone[:, [0, 3]]).abs().max() < 1e-6
    assert (gated[:, 1:3] - ungated[:, 1:3]).abs().max() < 1e-6
    assert (ungated - alone).abs().mean() > 1e-3


# The whole model


@pytest.mark.parametrize("reference_attention", ["full", "one_way"])
def test_no_gate_is_the_same_to_the_last_bit(reference_attention: str, new_transformer: NewTransformer) -> None:
    model = new_transformer(reference_attention=reference_attention)
    expected = sample_of(model, **inputs_of())
    for none in (None, 0, 0.0):
        assert torch.equal(sample_of(model, **inputs_of(), reference_gate=none), expected)
    nobody = {**inputs_of(), "references": None}
    assert torch.equal(sample_of(model, **nobody, reference_gate=3.0), sample_of(model, **nobody))
    assert not torch.allclose(sample_of(model, **inputs_of(), reference_gate=3.0), expected, atol=1e-3)


@pytest.mark.parametrize("reference_attention", ["full", "one_way"])
@pytest.mark.parametrize("interval_encoding", ["untimed", "werope"])
def test_what_never_appears_is_as_if_it_were_not_there(
    reference_attention: str, interval_encoding: str, new_transformer: NewTransformer
) -> None:
    model = new_transformer(reference_attention=reference_attention, interval_encoding=interval_encoding)
    gated = sample_of(model, **inputs_of(BEYOND), reference_gate=SHUT)
    alone = sample_of(model, **{**inputs_of(), "references": None})
    assert (gated - alone).abs().max() < 1e-5
    assert (sample_of(model, **inputs_of(BEYOND)) - alone).abs().max() > 1e-2


def test_references_that_are_encoded_once_are_gated_alike(new_transformer: NewTransformer) -> None:
    model = new_transformer(reference_attention="one_way")
    inputs = inputs_of()
    with torch.no_grad():
        encoded = model.encode_references(inputs["hidden_states"], inputs["encoder_hidden_states"],
                                          inputs["references"])
    gated = sample_of(model, **inputs, reference_gate=3.0)
    kept = sample_of(model, **{**inputs, "references": encoded}, reference_gate=3.0)
    assert (kept - gated).abs().max() < 1e-6


def test_gradients_pass_with_and_without_checkpointing(new_transformer: NewTransformer) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = new_transformer().train()
        if checkpointing:
            model.enable_gradient_checkpointing()
        model(**inputs_of(), reference_gate=3.0).sample.square().mean().backward()
        gradients.append(model.blocks[0].attn1.to_k.weight.grad)
    assert gradients[0].norm() > 0
    assert torch.allclose(gradients[0], gradients[1], rtol=1e-4, atol=1e-8)


# Guidance


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("reference_attention", ["full", "one_way"])
def test_every_branch_of_guidance_is_gated(
    reference_attention: str, batched: bool, new_transformer: NewTransformer
) -> None:
    """With subjects that never appear all branches lose their references, with images or without."""
    model = new_transformer(reference_attention=reference_attention)
    inputs = inputs_of(BEYOND)
    shown = inputs["references"]
    hidden = shown._replace(latents=torch.zeros_like(shown.latents))
    prompts = {True: inputs["encoder_hidden_states"], False: -inputs["encoder_hidden_states"]}

    def velocity(spans: torch.Tensor, gate: float | None) -> torch.Tensor:
        """Of one step, which goes all the way from noise."""
        references = {True: shown._replace(spans=spans), False: hidden._replace(spans=spans)}
        conditions: dict[Branch, Conditions] = {
            (images, text): Conditions(prompts[text], references[images], None)
            for images in (False, True) for text in (False, True)}
        guidance = Guidance(mode="joint", image_scale=2.0, text_scale=3.0, joint_scale=1.0)
        guided = GuidedVelocity([Expert(model, guidance, 0.0)], conditions, Evaluating(batched, reference_gate=gate))
        noise = inputs["hidden_states"]
        return noise - next(steps(FlowMatchEulerDiscreteScheduler(), guided, noise, 1)).sample

    without = {**inputs, "references": None, "timestep": torch.tensor([1000.0] * BATCH)}
    with torch.no_grad():
        gated, ungated = velocity(BEYOND, SHUT), velocity(BEYOND, None)
        alone = sample_of(model, **without)
        without_text = sample_of(model, **{**without, "encoder_hidden_states": prompts[False]})
    # v00 + 2 (vI0 - v00) + 3 (v0T - v00) + (vIT - v00), where nothing depends on images
    expected = without_text + 3 * (alone - without_text) + (alone - without_text)
    assert (gated - expected).abs().max() < 1e-4
    assert (ungated - expected).abs().max() > 1e-2
