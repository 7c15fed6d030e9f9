"""The AlcheMinT transformer: Wan where nothing is new, Wan's own blocks on a longer sequence where something is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FirstBlockCacheConfig, WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanTransformerBlock

from alchemint.model.conditions import Events, References
from alchemint.model.encodings import ENCODINGS
from alchemint.model.event_attention import EVENT_ENCODINGS
from alchemint.model.transformer import AlchemintTransformer3DModel, AlchemintTransformerBlock, Segments

NewTransformer = Callable[..., AlchemintTransformer3DModel]

BATCH, TEXT_DIM, NUM_WORD_TOKENS = 2, 16, 4
NUM_VIDEO_TOKENS = 3 * 4 * 4


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def inputs() -> dict[str, torch.Tensor]:
    """Three latent frames of 8 x 8, a timestep and a prompt, for a batch of two."""
    return {"hidden_states": random(BATCH, 4, 3, 8, 8), "timestep": torch.tensor([900.0, 250.0]),
            "encoder_hidden_states": random(BATCH, 7, TEXT_DIM, seed=1)}


@pytest.fixture(scope="module")
def references() -> References:
    """Three references of two subjects: the first has two views."""
    words = torch.arange(NUM_WORD_TOKENS) < torch.tensor([[[2], [2], [1]], [[3], [3], [4]]])
    return References(latents=random(BATCH, 3, 4, 8, 8, seed=2),
                      spans=torch.tensor([[[0.0, 0.625], [0.0, 0.625], [1.0, 2.375]],
                                          [[0.625, 2.375], [0.625, 2.375], [0.0, 1.5]]]),
                      indices=torch.tensor([[0, 0, 1], [0, 0, 1]]),
                      word_embeds=random(BATCH, 3, NUM_WORD_TOKENS, TEXT_DIM, seed=3), word_mask=words)


@pytest.fixture(scope="module")
def events() -> Events:
    """Two events, of which the second row's last is padding."""
    mask = torch.ones(BATCH, 2, 5).bool()
    mask[0, 1, 3:], mask[1, 1] = False, False
    return Events(random(BATCH, 2, 5, TEXT_DIM, seed=4), mask,
                  torch.tensor([[[0.0, 1.0], [1.25, 2.375]], [[0.0, 2.375], [3.0, 4.0]]]))


@pytest.fixture(scope="module")
def wan(wan_sizes: dict[str, Any]) -> WanTransformer3DModel:
    torch.manual_seed(0)
    return WanTransformer3DModel(**wan_sizes).eval()


@torch.no_grad()
def run(model: torch.nn.Module, inputs: dict[str, torch.Tensor], **conditions: Any) -> torch.Tensor:
    return model(**inputs, **conditions).sample


def per_token(timestep: torch.Tensor, num_tokens: int = NUM_VIDEO_TOKENS) -> torch.Tensor:
    """A timestep a token as Wan 2.2 5B has it: the first latent frame is clean."""
    tokens = timestep.view(-1, 1).repeat(1, num_tokens)
    tokens[:, :16] = 0
    return tokens


# Without conditions


@pytest.mark.parametrize("event_encoding", [*EVENT_ENCODINGS, None])
def test_without_conditions_it_is_wan_to_the_last_bit(
    wan: WanTransformer3DModel, inputs: dict[str, torch.Tensor], event_encoding: str | None
) -> None:
    ours = AlchemintTransformer3DModel.from_wan(wan, event_encoding=event_encoding, num_word_tokens=NUM_WORD_TOKENS)
    assert torch.equal(run(ours, inputs), run(wan, inputs))
    tokenwise = {**inputs, "timestep": per_token(inputs["timestep"])}
    assert torch.equal(run(ours, tokenwise), run(wan, tokenwise))
    assert not torch.allclose(run(ours, tokenwise), run(ours, inputs))


def test_an_empty_set_of_references_is_none(
    new_transformer: NewTransformer, inputs: dict[str, torch.Tensor], references: References
) -> None:
    model = new_transformer()
    nobody = References(*(part[:, :0] for part in references))
    assert torch.equal(run(model, inputs, references=nobody), run(model, inputs))


def test_fresh_event_branches_add_nothing(
    wan: WanTransformer3DModel, inputs: dict[str, torch.Tensor], events: Events
) -> None:
    ours = AlchemintTransformer3DModel.from_wan(wan)
    assert torch.equal(run(ours, inputs, events=events), run(wan, inputs))


def test_from_wan_leaves_wan_alone_and_nothing_undrawn(wan: WanTransformer3DModel) -> None:
    before = {name: tensor.clone() for name, tensor in wan.state_dict().items()}
    torch.manual_seed(5)
    ours = AlchemintTransformer3DModel.from_wan(wan, num_subject_indices=3)
    assert all(torch.equal(tensor, before[name]) for name, tensor in wan.state_dict().items())
    assert not any(parameter.is_meta or parameter.isnan().any() for parameter in ours.parameters())
    assert ours.subject_index.weight.std().item() == pytest.approx(0.02, rel=0.3)
    new = {name for name, _ in ours.named_parameters()} - set(before)
    assert all(any(name.startswith(f"{part}.") for part in ours.new_module_names()) for name in new)


# With conditions


@pytest.mark.parametrize("tokenwise", [False, True])
@pytest.mark.parametrize(("condition_timestep", "reference_attention"),
                         [("clean", "full"), ("shared", "full"), ("clean", "one_way")])
@torch.no_grad()
def test_references_are_further_tokens_of_wans_own_blocks(
    new_transformer: NewTransformer, inputs: dict[str, torch.Tensor], references: References, condition_timestep: str,
    reference_attention: str, tokenwise: bool
) -> None:
    """The whole forward against diffusers' blocks on the joined sequence, with a timestep for every token.

    Conditions that are blind to the video go through the blocks once more, by themselves.
    """
    model = new_transformer(condition_timestep=condition_timestep, event_encoding=None,
                            reference_attention=reference_attention)
    timestep = per_token(inputs["timestep"]) if tokenwise else inputs["timestep"]
    output = run(model, {**inputs, "timestep": timestep}, references=references)

    # [video | references | word tags], joined token by token
    def patches(latents: torch.Tensor) -> list[torch.Tensor]:
        kernel, bias = model.patch_embedding.weight[:, :, 0], model.patch_embedding.bias
        return [(kernel * latents[:, 2 * y:2 * y + 2, 2 * x:2 * x + 2]).sum((1, 2, 3)) + bias
                for y in range(4) for x in range(4)]

    joined = []
    for row in range(BATCH):
        sequence = [token for frame in inputs["hidden_states"][row].unbind(1) for token in patches(frame)]
        index = [model.subject_index.weight[number] for number in references.indices[row]]
        sequence += [token + index[n] for n in range(3) for token in patches(references.latents[row, n])]
        for n in range(3):
            for place in range(NUM_WORD_TOKENS):
                there = references.word_mask[row, n, place]
                word = model.word_tags.projection(references.word_embeds[row, n, place])
                sequence.append((word if there else model.word_tags.pad.weight[0]) + index[n])
        joined.append(torch.stack(sequence))
    tokens = torch.stack(joined)

    # A timestep for each token: the video's, then 0 or the video's (its latest token's)
    video = timestep if tokenwise else timestep.view(-1, 1).repeat(1, NUM_VIDEO_TOKENS)
    condition = video[:, -1:] if condition_timestep == "shared" else torch.zeros(BATCH, 1)
    times = torch.cat([video, condition.expand(-1, tokens.shape[1] - NUM_VIDEO_TOKENS)], dim=1)
    temb, modulation, prompt, _ = model.condition_embedder(
        times.flatten(), inputs["encoder_hidden_states"], timestep_seq_len=times.shape[1])

    table = model.rope(inputs["hidden_states"], references.spans, references.indices)
    for ours in model.blocks:
        block = WanTransformerBlock(48, 64, 2, "rms_norm_across_heads", True)
        block.load_state_dict(ours.state_dict())
        modulations = modulation.unflatten(-1, (6, -1))
        alone = block(tokens[:, NUM_VIDEO_TOKENS:], prompt, modulations[:, NUM_VIDEO_TOKENS:],
                      tuple(part[:, NUM_VIDEO_TOKENS:] for part in table))
        tokens = block(tokens, prompt, modulations, table)
        if reference_attention == "one_way":
            tokens = torch.cat([tokens[:, :NUM_VIDEO_TOKENS], alone], dim=1)

    tokens, temb = tokens[:, :NUM_VIDEO_TOKENS], temb[:, :NUM_VIDEO_TOKENS]
    shift, scale = (model.scale_shift_table.unsqueeze(0) + temb.unsqueeze(2)).unbind(2)
    projected = model.proj_out(model.norm_out(tokens) * (1 + scale) + shift)
    expected = torch.zeros_like(output)
    for number in range(NUM_VIDEO_TOKENS):
        frame, y, x = number // 16, number // 4 % 4, number % 4
        patch = projected[:, number].view(BATCH, 2, 2, 4)
        expected[:, :, frame, 2 * y:2 * y + 2, 2 * x:2 * x + 2] = patch.permute(0, 3, 1, 2)
    assert torch.allclose(output, expected, atol=1e-5)


@torch.no_grad()
def test_one_way_references_serve_every_step_once_encoded(
    new_transformer: NewTransformer, inputs: dict[str, torch.Tensor], references: References, events: Events
) -> None:
    model = new_transformer(reference_attention="one_way")
    encoded = model.encode_references(torch.zeros_like(inputs["hidden_states"]), inputs["encoder_hidden_states"],
                                      references)
    assert [tuple(part.shape for part in block) for block in encoded.blocks] == 2 * [
        2 * ((BATCH, 3 * (16 + NUM_WORD_TOKENS), 2, 24),)]
    for timestep in (inputs["timestep"], torch.tensor([1.0, 999.0]), per_token(inputs["timestep"])):
        step = {**inputs, "hidden_states": random(BATCH, 4, 3, 8, 8, seed=int(timestep.sum())), "timestep": timestep}
        fresh = run(model, step, references=references, events=events)
        assert torch.allclose(run(model, step, references=encoded, events=events), fresh, atol=1e-5)
        assert not torch.allclose(run(model, step, events=events), fresh, atol=1e-2)


def test_references_that_see_the_video_cannot_be_encoded_before(
    new_transformer: NewTransformer, inputs: dict[str, torch.Tensor], references: References
) -> None:
    with pytest.raises(ValueError, match='this model was trained with "full"'):
        new_transformer().encode_references(inputs["hidden_states"], inputs["encoder_hidden_states"], references)


def test_two_modulations_are_one_for_every_token() -> None:
    torch.manual_seed(0)
    ours = AlchemintTransformerBlock(48, 64, 2, "rms_norm_across_heads", True, 1e-6, None, has_events=False)
    wan = WanTransformerBlock(48, 64, 2, "rms_norm_across_heads", True)
    wan.load_state_dict(ours.state_dict())
    tokens, prompt, table = random(2, 7, 48), random(2, 5, 48), (torch.ones(1, 7, 1, 24), torch.zeros(1, 7, 1, 24))
    video, condition = random(2, 6, 48, seed=1), random(2, 6, 48, seed=2)
    each = torch.stack([video if token < 4 else condition for token in range(7)], dim=1)
    expected = wan(tokens, prompt, each, table)
    assert torch.allclose(ours(tokens, prompt, video, table, Segments(condition, 4)), expected, atol=1e-5)
    assert torch.allclose(ours(tokens, prompt, each[:, :4], table, Segments(condition, 4)), expected, atol=1e-5)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_pictures_words_and_intervals_change_the_video(
    new_transformer: NewTransformer, inputs: dict[str, torch.Tensor], references: References, encoding: str
) -> None:
    model = new_transformer(interval_encoding=encoding)
    output = run(model, inputs, references=references)
    for changed in (None, references._replace(latents=references.latents.flip(1)),
                    references._replace(word_embeds=references.word_embeds.flip(1)),
                    references._replace(indices=references.indices + 1)):
        assert (run(model, inputs, references=changed) - output).abs().max() > 1e-4
    moved = run(model, inputs, references=references._replace(spans=references.spans / 2))
    assert torch.equal(moved, output) == (encoding == "untimed")


def test_the_order_of_references_does_not_matter(
    new_transformer: NewTransformer, inputs: dict[str, torch.Tensor], references: References
) -> None:
    model = new_transformer()
    order = [2, 0, 1]
    shuffled = References(*(part[:, order] for part in references))
    output = run(model, inputs, references=references)
    assert torch.allclose(run(model, inputs, references=shuffled), output, atol=1e-5)


def test_rows_of_a_batch_do_not_see_each_other(
    new_transformer: NewTransformer, inputs: dict[str, torch.Tensor], references: References, events: Events
) -> None:
    model = new_transformer()
    output = run(model, inputs, references=references, events=events)
    for row in range(BATCH):
        alone = run(model, {name: value[row:row + 1] for name, value in inputs.items()},
                    references=References(*(part[row:row + 1] for part in references)),
                    events=Events(*(part[row:row + 1] for part in events)))
        assert torch.allclose(output[row:row + 1], alone, atol=1e-5)


def test_clean_and_shared_conditions_meet_at_time_zero(
    new_transformer: NewTransformer, inputs: dict[str, torch.Tensor], references: References
) -> None:
    clean, shared = (new_transformer(condition_timestep=name) for name in ("clean", "shared"))
    at_zero = {**inputs, "timestep": torch.zeros(BATCH)}
    assert torch.allclose(run(clean, at_zero, references=references), run(shared, at_zero, references=references),
                          atol=1e-6)
    assert (run(clean, inputs, references=references) - run(shared, inputs, references=references)).abs().max() > 1e-4


@pytest.mark.parametrize("event_encoding", EVENT_ENCODINGS)
def test_events_count_unless_they_are_padding(
    new_transformer: NewTransformer, inputs: dict[str, torch.Tensor], references: References, events: Events,
    event_encoding: str
) -> None:
    model = new_transformer(event_encoding=event_encoding)
    for timed in (None, references):
        output = run(model, inputs, references=timed, events=events)
        assert (output - run(model, inputs, references=timed)).abs().amax((1, 2, 3, 4)).min() > 1e-4
        other = events._replace(embeds=torch.where(events.mask.unsqueeze(-1), events.embeds, 9.0))
        assert torch.equal(run(model, inputs, references=timed, events=other), output)
        earlier = events._replace(spans=events.spans / 2)
        assert not torch.allclose(run(model, inputs, references=timed, events=earlier), output, atol=1e-5)


def test_padded_events_are_as_good_as_none(
    new_transformer: NewTransformer, inputs: dict[str, torch.Tensor], events: Events
) -> None:
    model = new_transformer()
    second = {name: value[1:] for name, value in inputs.items()}
    padded = run(model, second, events=Events(*(part[1:] for part in events)))
    alone = run(model, second, events=Events(*(part[1:, :1] for part in events)))
    assert torch.allclose(padded, alone, atol=1e-5)


# What practice asks of a model


def test_it_comes_back_from_disk(
    new_transformer: NewTransformer, inputs: dict[str, torch.Tensor], references: References, events: Events,
    tmp_path: Path
) -> None:
    model = new_transformer(interval_encoding="contrast", rope_theta=50.0, werope_inside=1.5, event_encoding="tie")
    model.save_pretrained(tmp_path)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".safetensors"]
    loaded = AlchemintTransformer3DModel.from_pretrained(tmp_path)
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert torch.allclose(run(loaded, inputs, references=references, events=events),
                          run(model, inputs, references=references, events=events), atol=1e-6)


def test_every_size_of_wan_survives(wan_sizes: dict[str, Any], tmp_path: Path) -> None:
    sizes = {**wan_sizes, "num_attention_heads": 3, "attention_head_dim": 12, "in_channels": 6, "out_channels": 8,
             "text_dim": 10, "freq_dim": 16, "ffn_dim": 20, "num_layers": 1, "cross_attn_norm": False, "eps": 1e-5,
             "rope_max_seq_len": 128}
    WanTransformer3DModel(**sizes).save_pretrained(tmp_path / "wan")
    AlchemintTransformer3DModel.from_wan(tmp_path / "wan", werope_outside=-0.5).save_pretrained(tmp_path / "ours")
    loaded = AlchemintTransformer3DModel.from_pretrained(tmp_path / "ours")
    assert {name: loaded.config[name] for name in sizes} == sizes
    assert loaded.config.werope_outside == -0.5
    assert len(loaded.blocks) == 1


def test_half_precision_is_near_full_precision(
    new_transformer: NewTransformer, inputs: dict[str, torch.Tensor], references: References, events: Events,
    tmp_path: Path
) -> None:
    """As loaded in bfloat16, diffusers keeps time embedding and norms in float32; both kinds of call must run."""
    model = new_transformer()
    model.save_pretrained(tmp_path)
    half = AlchemintTransformer3DModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    exact = run(model, inputs, references=references, events=events)
    rounded = run(half, {name: value if name == "timestep" else value.bfloat16() for name, value in inputs.items()},
                  references=references._replace(latents=references.latents.bfloat16(),
                                                 word_embeds=references.word_embeds.bfloat16()),
                  events=events._replace(embeds=events.embeds.bfloat16()))
    assert rounded.dtype == torch.bfloat16
    assert (rounded.float() - exact).std() < 0.05 * exact.std()


def test_gradient_checkpointing_gives_the_same_gradients(
    new_transformer: NewTransformer, inputs: dict[str, torch.Tensor], references: References, events: Events
) -> None:
    gradients, runs = [], []
    for checkpointing in (False, True):
        model = new_transformer().train()
        if checkpointing:
            model.enable_gradient_checkpointing()
        calls: list[int] = []
        model.get_submodule("blocks.0.ffn").register_forward_hook(lambda *_, calls=calls: calls.append(1))
        model(**inputs, references=references, events=events).sample.square().mean().backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        gradients.append([parameter.grad for parameter in model.parameters()])
        runs.append(len(calls))
    assert runs == [1, 2]
    for plain, checkpointed in zip(*gradients, strict=True):
        assert torch.allclose(plain, checkpointed, atol=1e-7)


def test_a_step_cache_skips_blocks_for_each_branch_apart(
    new_transformer: NewTransformer, inputs: dict[str, torch.Tensor], references: References
) -> None:
    exact = new_transformer()
    model = new_transformer()
    model.enable_cache(FirstBlockCacheConfig(threshold=1e9))
    calls: list[int] = []
    model.get_submodule("blocks.1.ffn").register_forward_hook(lambda *_: calls.append(1))
    branches = {"with": references, "without": None}
    for _ in range(3):
        for name, conditions in branches.items():
            with model.cache_context(name):
                output = run(model, inputs, references=conditions)
            assert torch.allclose(output, run(exact, inputs, references=conditions), atol=1e-5)
    assert len(calls) == len(branches)


@pytest.mark.parametrize(("options", "message"), [
    ({"interval_encoding": "wrope"}, 'interval_encoding "wrope" is unknown; use one of untimed, mid, werope'),
    ({"condition_timestep": "noisy"}, 'condition_timestep "noisy" is unknown; use one of clean, shared'),
    ({"reference_attention": "causal"}, 'reference_attention "causal" is unknown; use one of full, one_way'),
    ({"reference_attention": "one_way", "condition_timestep": "shared"}, 'needs condition_timestep "clean"'),
    ({"event_encoding": "none"}, 'event_encoding "none" is unknown; use one of rerope, tie, or null'),
])
def test_an_unknown_option_is_named_with_those_that_exist(
    new_transformer: NewTransformer, options: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        new_transformer(**options)


def test_events_need_the_event_branch(
    new_transformer: NewTransformer, inputs: dict[str, torch.Tensor], events: Events
) -> None:
    with pytest.raises(ValueError, match="no event branch"):
        run(new_transformer(event_encoding=None), inputs, events=events)
