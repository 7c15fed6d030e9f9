"""What is recorded of attention against a slow softmax over all that the attention kernel is really given."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from diffusers import FirstBlockCacheConfig
from diffusers.models.transformers import transformer_wan

from alchemint.model import attention, interval_gate
from alchemint.model import attention_record as recording
from alchemint.model.attention_record import Layout, attention_shares, observe_attention, sampled_tokens
from alchemint.model.conditions import References

NewTransformer = Callable[..., Any]

T, H, W, N, L = 3, 4, 6, 2, 4
PER_FRAME = (H // 2) * (W // 2)
V = T * PER_FRAME
K = V + N * (PER_FRAME + L)


def new_inputs(batch: int = 1, seed: int = 0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    spans = torch.tensor([[0.0, 1.0], [1.5, 2.0]]).expand(batch, -1, -1)
    references = References(2 * draw(batch, N, 4, H, W), spans, torch.arange(N).expand(batch, -1),
                            draw(batch, N, L, 16), torch.ones(batch, N, L, dtype=torch.bool))
    return {"hidden_states": draw(batch, 4, T, H, W), "timestep": torch.full((batch,), 500.0),
            "encoder_hidden_states": draw(batch, 5, 16), "references": references}


@contextmanager
def slow_twin(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[torch.Tensor]]:
    """Replace the kernels by a softmax that is written out, and keep what the video's tokens pay to all (B, V, K)."""
    paid: list[torch.Tensor] = []

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn_mask: Any = None,
               **_: Any) -> torch.Tensor:
        logits = torch.einsum("bqhd,bkhd->bhqk", query.double(), key.double()) / query.shape[-1] ** 0.5
        weights = (logits if attn_mask is None else logits + attn_mask).softmax(-1)
        if key.shape[1] == K:
            paid.append(weights.mean(1)[:, :V])
        return torch.einsum("bhqk,bkhd->bqhd", weights, value.double()).type_as(query)

    with monkeypatch.context() as patch:
        for module in (transformer_wan, attention, interval_gate):
            patch.setattr(module, "dispatch_attention_fn", attend)
        yield paid


def of_references(paid: torch.Tensor) -> torch.Tensor:
    """Sum what video tokens pay, (B, V, K), token by token: (B, T, N)."""
    shares = torch.zeros(len(paid), T, N, dtype=torch.float64)
    for token in range(V):
        for reference in range(N):
            picture = V + reference * PER_FRAME
            word = V + N * PER_FRAME + reference * L
            shares[:, token // PER_FRAME, reference] += (
                paid[:, token, picture:picture + PER_FRAME].sum(1) + paid[:, token, word:word + L].sum(1)) / PER_FRAME
    return shares


@pytest.mark.parametrize("options", [{}, {"reference_attention": "one_way"}, {"interval_encoding": "contrast"}])
@torch.no_grad()
def test_shares_are_those_of_a_full_softmax(new_transformer: NewTransformer, monkeypatch: pytest.MonkeyPatch,
                                            options: dict[str, Any]) -> None:
    model, inputs = new_transformer(**options), new_inputs(batch=2)
    with slow_twin(monkeypatch) as paid, observe_attention(model) as record:
        model(**inputs)
    assert len(paid) == 2
    expected = sum(map(of_references, paid)) / 2
    shares = record.take()
    assert shares is not None
    assert torch.allclose(shares.double(), expected, atol=1e-6)
    assert expected.min() > 0.02
    assert (expected[:, :, 0] - expected[:, :, 1]).abs().min() > 1e-3
    assert record.take() is None


@torch.no_grad()
def test_references_that_are_encoded_once_are_counted_alike(new_transformer: NewTransformer,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = new_transformer(reference_attention="one_way"), new_inputs()
    with observe_attention(model) as record:
        model(**inputs)
        together = record.take()
        encoded = model.encode_references(*(inputs[name] for name in ("hidden_states", "encoder_hidden_states",
                                                                      "references")))
        assert record.take() is None
        with slow_twin(monkeypatch) as paid:
            model(**{**inputs, "references": encoded})
        shares = record.take()
    assert together is not None
    assert shares is not None
    assert torch.allclose(shares, together, atol=1e-6)
    assert torch.allclose(shares.double(), sum(map(of_references, paid)) / 2, atol=1e-6)


@torch.no_grad()
def test_a_gate_on_references_is_counted_in(new_transformer: NewTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate's attention runs for frames of one bias at a time; together they are the video's."""
    model, inputs = new_transformer(), new_inputs()
    gated: list[torch.Tensor] = []
    plain_gate = interval_gate.gated_attention

    def keep(query: torch.Tensor, key: torch.Tensor, *rest: Any) -> torch.Tensor:
        with slow_twin(monkeypatch) as paid:
            attended = plain_gate(query, key, *rest)
        gated.append(torch.cat(paid, 1))
        return attended

    monkeypatch.setattr(attention, "gated_attention", keep)
    with observe_attention(model) as record:
        model(**inputs, reference_gate=4.0)
    shares = record.take()
    assert shares is not None
    expected = sum(map(of_references, gated)) / 2
    assert torch.allclose(shares.double(), expected, atol=1e-6)
    assert expected[0, 2, 0] < 0.1 * expected[0, 0, 0]


@torch.no_grad()
def test_the_forward_pass_stays_as_it_is(new_transformer: NewTransformer) -> None:
    model, inputs = new_transformer(), new_inputs()
    plain = model(**inputs, return_dict=False)[0]
    with observe_attention(model):
        assert torch.equal(model(**inputs, return_dict=False)[0], plain)
    hooks = [name for name, module in model.named_modules() if module._forward_hooks or module._forward_pre_hooks]
    assert not hooks
    assert not model._diffusers_hook.hooks
    assert torch.equal(model(**inputs, return_dict=False)[0], plain)


@torch.no_grad()
def test_only_the_named_branch_and_few_steps_count(new_transformer: NewTransformer,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = new_transformer(), new_inputs(batch=6)
    observed = []
    with observe_attention(model, "both", num_steps=2) as record:
        for step in range(8):
            with model.cache_context("neither, both, images", step_index=step, num_inference_steps=8), \
                    slow_twin(monkeypatch) as paid:
                model(**inputs)
            if (shares := record.take()) is not None:
                observed.append(step)
                expected = sum(of_references(each[2:4]) for each in paid) / 2
                assert shares.shape == (2, T, N)
                assert torch.allclose(shares.double(), expected, atol=1e-6)
        with model.cache_context("neither, images", step_index=2, num_inference_steps=8):
            model(**inputs)
        assert record.take() is None
    assert observed == [2, 6]


@torch.no_grad()
def test_blocks_that_a_step_cache_skips_are_left_out(new_transformer: NewTransformer,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = new_transformer(), new_inputs()
    model.enable_cache(FirstBlockCacheConfig(threshold=10.0))
    with observe_attention(model) as record:
        for step in range(2):
            with model.cache_context("both", step_index=step, num_inference_steps=2), slow_twin(monkeypatch) as paid:
                model(**inputs)
            shares = record.take()
            assert shares is not None
            assert len(paid) == 2 - step
            assert torch.allclose(shares.double(), sum(map(of_references, paid)) / len(paid), atol=1e-6)


@torch.no_grad()
def test_offloaded_and_half_precision_weights_are_observed_too(new_transformer: NewTransformer) -> None:
    inputs = new_inputs()

    def shares_of(model: Any) -> torch.Tensor:
        references = References(*(part.to(model.dtype) if part.is_floating_point() else part
                                  for part in inputs["references"]))
        given = {name: part.to(model.dtype) for name, part in inputs.items() if name != "references"}
        with observe_attention(model) as record:
            model(**given, references=references)
        shares = record.take()
        assert shares is not None
        assert shares.dtype == torch.float32
        return shares

    plain, offloaded = shares_of(new_transformer()), new_transformer()
    offloaded.enable_group_offload(onload_device=torch.device("cpu"), offload_type="block_level",
                                   num_blocks_per_group=1)
    for _ in range(2):
        assert torch.equal(shares_of(offloaded), plain)
    half = shares_of(new_transformer().to(torch.bfloat16))
    assert 0 < (half - plain).abs().max() < 0.01


@torch.no_grad()
def test_without_references_there_is_nothing_to_record(new_transformer: NewTransformer) -> None:
    model, inputs = new_transformer(), new_inputs()
    with observe_attention(model) as record:
        model(**{**inputs, "references": None})
    assert record.take() is None


def test_heads_and_queries_in_parts_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(1)
    layout = Layout(4, 12, 3)
    query, key = (torch.randn(2, count, 6, 8, generator=generator) for count in (20, 4 * 12 + 3 * 14))
    bias = torch.randn(2, 20, key.shape[1], generator=generator)
    whole = attention_shares(query, key, layout, bias)
    for most in (1, 3 * 2 * 90, 50 * 2 * 90):
        monkeypatch.setattr(recording, "_MOST_LOGITS", most)
        assert torch.allclose(attention_shares(query, key, layout, bias), whole, atol=1e-6)
    assert not torch.allclose(attention_shares(query, key, layout), whole, atol=1e-3)


def test_references_without_word_tags_are_their_pictures_alone() -> None:
    generator = torch.Generator().manual_seed(1)
    query, key = (torch.randn(1, count, 2, 8, generator=generator) for count in (5, 3 * 4 + 2 * 4))
    paid = (torch.einsum("bqhd,bkhd->bqhk", query, key) / 8 ** 0.5).softmax(-1).mean(2)
    expected = torch.stack([paid[..., 12:16].sum(-1), paid[..., 16:20].sum(-1)], -1)
    assert torch.allclose(attention_shares(query, key, Layout(3, 4, 2)), expected, atol=1e-6)


def test_queries_are_drawn_alike_in_each_frame_and_every_time() -> None:
    layout = Layout(5, 100, 1)
    tokens = sampled_tokens(layout, 8).view(5, 8)
    assert torch.equal(tokens, sampled_tokens(layout, 8).view(5, 8))
    assert torch.equal(tokens - 100 * torch.arange(5).unsqueeze(1), tokens[:1].expand(5, -1))
    assert len(tokens[0].unique()) == 8
    assert torch.equal(sampled_tokens(layout, 100), torch.arange(500))


def test_what_no_hook_reaches_is_refused(new_transformer: NewTransformer) -> None:
    model = new_transformer()
    for block in model.blocks:
        block.forward = torch.compile(block.forward, fullgraph=True)
    with pytest.raises(ValueError, match="can't be observed in compiled blocks"), observe_attention(model):
        pass
    model = new_transformer()
    model.context_parallel = object()
    with pytest.raises(ValueError, match="several processes share"), observe_attention(model):
        pass
