"""The transformer's objective: what is dropped and what never is, its loss, and that it learns."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan

from alchemint.data.encoded_clips import ClipBatch, encode_clips
from alchemint.model.latents import as_pixels, encode_video
from alchemint.pipeline import AlchemintPipeline
from alchemint.training.draws import Draws
from alchemint.training.encoders import LatentEncoder
from alchemint.training.optimizers import Optimizers
from alchemint.training.recipe import Dropout, TransformerRecipe
from alchemint.training.transformer import TransformerObjective, draw_kept

NewRecipe = Callable[..., TransformerRecipe]
NewObjective = Callable[[TransformerRecipe], TransformerObjective]

CPU = torch.device("cpu")
KEPT = torch.tensor([True, True, True])


@pytest.fixture
def objective(transformer_recipe: NewRecipe, new_objective: NewObjective) -> TransformerObjective:
    return new_objective(transformer_recipe())


@pytest.fixture(scope="module")
def batch(source: Callable[..., Any], vae: AutoencoderKLWan) -> ClipBatch:
    """Three clips of two subjects, with their timed captions."""
    encoder = torch.no_grad()(lambda videos: encode_video(vae, as_pixels(videos)))
    return encode_clips([source(index, 2) for index in range(3)], encoder, with_events=True)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Dropout


def test_conditions_are_dropped_as_often_as_the_recipe_says() -> None:
    images, text = draw_kept(Dropout(image=0.2, text=0.1, both=0.05), Draws(0, 0).of_samples(40_000), CPU)
    shares = {(image, words): ((images == image) & (text == words)).float().mean().item()
              for image in (True, False) for words in (True, False)}
    assert shares[True, True] == pytest.approx(0.95 * 0.8 * 0.9, abs=1e-2)
    assert shares[False, True] == pytest.approx(0.95 * 0.2 * 0.9, abs=1e-2)
    assert shares[True, False] == pytest.approx(0.95 * 0.8 * 0.1, abs=1e-2)
    assert shares[False, False] == pytest.approx(0.05 + 0.95 * 0.2 * 0.1, abs=1e-2)


def test_nothing_is_dropped_without_dropout() -> None:
    assert all(kept.all() for kept in draw_kept(Dropout(image=0, text=0, both=0), Draws(0, 0).of_samples(1000), CPU))
    assert not any(kept.any() for kept in draw_kept(Dropout(both=1), Draws(0, 0).of_samples(1000), CPU))


@torch.no_grad()
def test_a_dropped_image_keeps_its_interval(objective: TransformerObjective, batch: ClipBatch) -> None:
    images = torch.tensor([True, False, True])
    prompt, references, events = objective._conditions(batch, images, KEPT)
    full_prompt, full, full_events = objective._conditions(batch, KEPT, KEPT)
    assert events is not None
    assert full_events is not None
    assert torch.equal(prompt, full_prompt)
    assert all(torch.equal(one, other) for one, other in zip(events, full_events, strict=True))
    assert torch.equal(references.spans, batch.spans)
    assert torch.equal(references.indices, full.indices)
    assert not references.latents[1].any()
    empty, empty_mask = objective._embed([""], 4)
    for number in range(2):
        assert torch.allclose(references.word_embeds[1, number], empty[0], atol=1e-6)
        assert torch.equal(references.word_mask[1, number], empty_mask[0])
    for row in (0, 2):
        assert torch.equal(references.latents[row], batch.reference_latents[row])
        assert torch.equal(references.word_mask[row], full.word_mask[row])
        assert torch.allclose(references.word_embeds[row], full.word_embeds[row], atol=1e-6)


@torch.no_grad()
def test_a_dropped_text_keeps_images_and_all_intervals(objective: TransformerObjective, batch: ClipBatch) -> None:
    text = torch.tensor([False, True, True])
    prompt, references, events = objective._conditions(batch, KEPT, text)
    full_prompt, full, full_events = objective._conditions(batch, KEPT, KEPT)
    assert events is not None
    assert full_events is not None
    assert all(torch.equal(one, other) for one, other in zip(references, full, strict=True))
    assert torch.equal(events.spans, full_events.spans)
    empty_prompt, _ = objective._embed([""], 12)
    empty_event, empty_mask = objective._embed([""], 6)
    assert torch.allclose(prompt[0], empty_prompt[0], atol=1e-6)
    assert torch.allclose(prompt[1:], full_prompt[1:], atol=1e-6)
    assert batch.events is not None
    for number in range(len(batch.events[0])):
        assert torch.allclose(events.embeds[0, number], empty_event[0], atol=1e-6)
        assert torch.equal(events.mask[0, number], empty_mask[0])


# Conditions


@torch.no_grad()
def test_events_are_padded_after_the_video_and_masked(objective: TransformerObjective, batch: ClipBatch) -> None:
    assert batch.events is not None
    uneven = replace(batch, events=[batch.events[0][:1], batch.events[1][:2] * 2, batch.events[2][:2]])
    _, _, events = objective._conditions(uneven, KEPT, KEPT)
    assert events is not None
    assert uneven.events is not None
    for row, expected in enumerate(uneven.events):
        for number in range(events.mask.shape[1]):
            if number < len(expected):
                assert events.spans[row, number].tolist() == pytest.approx(expected[number][0])
                assert events.mask[row, number].any()
            else:
                assert events.spans[row, number, 0] >= batch.latents.shape[2]
                assert not events.mask[row, number].any()


def test_clips_without_timed_captions_are_as_if_they_were_left_out(
    objective: TransformerObjective, batch: ClipBatch
) -> None:
    without, empty = (objective.loss(changed, Draws(0, 0))[0].item() for changed in (
        replace(batch, events=None), replace(batch, events=[[], [], []])))
    assert without == empty


def test_clips_without_subjects_train(objective: TransformerObjective, source: Callable[..., Any],
                                      vae: AutoencoderKLWan) -> None:
    encoder = torch.no_grad()(lambda videos: encode_video(vae, as_pixels(videos)))
    empty = encode_clips([source(index, 0) for index in range(2)], encoder, with_events=True)
    loss, _ = objective.loss(empty, Draws(0, 0))
    loss.backward()
    assert torch.isfinite(loss)
    assert objective.transformer.proj_out.weight.grad.abs().sum() > 0


# Loss


def test_the_first_loss_is_that_of_predicting_nothing(
    transformer_recipe: NewRecipe, new_objective: NewObjective, batch: ClipBatch
) -> None:
    """The output layer begins at zero, so that the loss is the weighted mean of the squared target."""
    objective = new_objective(transformer_recipe(subject_weight=3.0))
    loss, parts = objective.loss(batch, Draws(7, 0))
    noise = torch.stack([torch.randn(batch.latents.shape[1:], generator=one) for one in Draws(7, 0).of_samples(3)])
    square = (noise - batch.latents).square()
    weight = (1 + 3.0 * batch.subject_mask).unsqueeze(1).expand_as(square)
    each = [(square[row] * weight[row]).sum() / weight[row].sum() for row in range(3)]
    assert loss.item() == pytest.approx(torch.stack(each).mean().item(), rel=1e-5)
    assert parts["plain_loss"].item() == pytest.approx(square.mean().item(), rel=1e-5)


def test_a_loss_depends_on_its_generator_alone(objective: TransformerObjective, batch: ClipBatch) -> None:
    torch.nn.init.normal_(objective.transformer.proj_out.weight, std=0.1)
    losses = []
    for global_seed, seed in ((1, 0), (2, 0), (2, 1)):
        torch.manual_seed(global_seed)
        losses.append(objective.loss(batch, Draws(seed, 0))[0].item())
    assert losses[0] == losses[1] != losses[2]


def test_a_batch_is_learnt_by_heart(
    transformer_recipe: NewRecipe, new_objective: NewObjective, batch: ClipBatch
) -> None:
    recipe = transformer_recipe(optimizer={"lr": 1e-2, "muon_lr": 0.03}, dropout=Dropout(image=0, text=0, both=0))
    objective = new_objective(recipe)
    optimizers = Optimizers(objective.parameter_groups(recipe.optimizer), objective.matrices(), recipe.optimizer)
    losses = []
    for _ in range(30):
        loss, _ = objective.loss(batch, Draws(0, 0))
        loss.backward()
        optimizers.step(1.0)
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


# Parameters


def test_new_modules_have_their_own_learning_rate(
    transformer_recipe: NewRecipe, new_objective: NewObjective
) -> None:
    recipe = transformer_recipe(optimizer={"lr": 1e-3, "new_lr": 4e-3})
    objective = new_objective(recipe)
    rates = {id(parameter): group["lr"] for group in objective.parameter_groups(recipe.optimizer)
             for parameter in group["params"]}
    for name, parameter in objective.transformer.named_parameters():
        new = name.startswith(("subject_index", "word_tags")) or "event_attn" in name
        assert rates.pop(id(parameter)) == (4e-3 if new else 1e-3), name
    assert set(rates) == {id(parameter) for parameter in objective.modules["text_encoder"].parameters()}
    assert set(rates.values()) == {1e-3}


def test_every_parameter_is_trained(
    transformer_recipe: NewRecipe, new_objective: NewObjective, batch: ClipBatch
) -> None:
    """None is left without a gradient when subjects and events are there, and some images are not."""
    objective = new_objective(transformer_recipe(dropout=Dropout(image=0.5, text=0, both=0)))
    torch.nn.init.normal_(objective.transformer.proj_out.weight, std=0.1)
    for block in objective.transformer.blocks:
        torch.nn.init.normal_(block.event_attn.to_out[0].weight, std=0.1)
    loss, _ = objective.loss(batch, Draws(0, 0))
    loss.backward()
    for module in objective.modules.values():
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


# Files


def test_the_encoder_is_the_vae_in_the_folder(transformer_recipe: NewRecipe, vae: AutoencoderKLWan) -> None:
    videos = torch.randint(0, 256, (1, 3, 5, 32, 32), generator=generator()).to(torch.uint8)
    encoder = LatentEncoder(transformer_recipe().vae, "cpu", bfloat16=False)
    with torch.no_grad():
        assert torch.allclose(encoder(videos), encode_video(vae, as_pixels(videos)), atol=1e-6)


def test_what_is_exported_is_a_pipeline_of_the_trained_modules(
    transformer_recipe: NewRecipe, new_objective: NewObjective
) -> None:
    recipe = transformer_recipe()
    objective = new_objective(recipe)
    objective.export(recipe.output / "export")
    pipeline = AlchemintPipeline.from_pretrained(recipe.output / "export")
    for name, module in objective.modules.items():
        loaded = getattr(pipeline, name).state_dict()
        assert all(torch.equal(tensor, loaded[key]) for key, tensor in module.state_dict().items())
    defaults = pipeline.defaults
    assert (defaults.width, defaults.height, defaults.num_frames, defaults.fps) == (32, 32, 13, 6.0)
    assert pipeline.tokenizer("a fox").input_ids == objective._start.tokenizer("a fox").input_ids


def test_a_run_may_start_from_an_exported_pipeline(
    transformer_recipe: NewRecipe, new_objective: NewObjective, tmp_path: Path
) -> None:
    first = new_objective(transformer_recipe())
    torch.nn.init.normal_(first.transformer.proj_out.weight)
    first.export(tmp_path / "export")
    second = new_objective(transformer_recipe(init_from=tmp_path / "export", output=tmp_path / "second", seed=1))
    for name, module in first.modules.items():
        started = second.modules[name].state_dict()
        assert all(torch.equal(tensor, started[key]) for key, tensor in module.state_dict().items())
    assert second._start.tokenizer.get_vocab() == first._start.tokenizer.get_vocab()


# Guided attention


@pytest.fixture
def with_places(vae: AutoencoderKLWan) -> Callable[[list[Any]], ClipBatch]:
    """A function that makes a batch of clips, which knows which spot of a reference each token shows."""
    encoder = torch.no_grad()(lambda videos: encode_video(vae, as_pixels(videos)))
    return lambda clips: encode_clips(clips, encoder, with_events=False, with_places=True)


@pytest.fixture
def known(source: Callable[..., Any], with_places: Callable[[list[Any]], ClipBatch]) -> ClipBatch:
    return with_places([source(index, 2) for index in range(3)])


def test_a_guide_adds_its_loss_for_samples_that_keep_their_images(
    transformer_recipe: NewRecipe, new_objective: NewObjective, known: ClipBatch
) -> None:
    guide = {"blocks": [0, 1], "weight": 0.5}
    plain, guided, without = (new_objective(transformer_recipe(seed=3, guide=wanted, dropout=dropout))
                              for wanted, dropout in (
        (None, {}), (guide, {"image": 0.0, "text": 0.0, "both": 0.0}), (guide, {"image": 1.0})))
    loss, details = guided.loss(known, Draws(0, 0))
    unguided, plain_details = guided.loss(replace(known, places=None), Draws(0, 0))
    assert details["guide_loss"] > 1
    assert loss.item() == pytest.approx(unguided.item() + 0.5 * details["guide_loss"].item(), rel=1e-4)
    assert "guide_loss" not in plain_details
    assert without.loss(known, Draws(0, 0))[1]["guide_loss"] == 0
    assert "guide_loss" not in plain.loss(known, Draws(0, 0))[1]
    loss.backward()
    assert guided.transformer.blocks[0].attn1.to_q.weight.grad.abs().sum() > 0


def test_a_guided_loss_is_the_mean_of_its_parts(
    transformer_recipe: NewRecipe, new_objective: NewObjective, source: Callable[..., Any],
    with_places: Callable[[list[Any]], ClipBatch]
) -> None:
    """However a batch is divided: parts with many pairs, with few, and with none."""
    clips = [source(index, 1) for index in range(4)]
    whole, *parts = map(with_places, (clips, clips[0::2], clips[1::2]))
    for batch in (whole, parts[0]):
        batch.places[0] = float("nan")
    few = whole.places[1].isnan().all(-1).logical_not().nonzero()[2:].unbind(1)
    for batch, row in ((whole, 1), (parts[1], 0)):
        batch.places[row][few] = float("nan")
    objective = new_objective(transformer_recipe(seed=3, guide={"blocks": [0, 1], "weight": 0.5}))
    with torch.no_grad():
        losses = [objective.loss(part, Draws(0, 0, number, 2))[1]["guide_loss"] for number, part in enumerate(parts)]
        assert objective.loss(whole, Draws(0, 0))[1]["guide_loss"].item() == pytest.approx(
            torch.stack(losses).mean().item(), rel=1e-4)


def test_a_guide_is_the_same_where_activations_are_computed_again(
    transformer_recipe: NewRecipe, new_objective: NewObjective, known: ClipBatch
) -> None:
    gradients = []
    for again in (False, True):
        objective = new_objective(transformer_recipe({"checkpoint_activations": again}, seed=3,
                                                     guide={"blocks": [0, 1], "weight": 0.5}))
        objective.transformer.train()
        objective.loss(known, Draws(0, 0))[0].backward()
        gradients.append(objective.transformer.blocks[1].attn1.to_q.weight.grad)
    assert gradients[0].abs().sum() > 0
    torch.testing.assert_close(*gradients)


def test_a_guide_names_blocks_that_are_there(transformer_recipe: NewRecipe, new_objective: NewObjective) -> None:
    with pytest.raises(ValueError, match="there is no block 7, 9; the transformer's are 0 to 1"):
        new_objective(transformer_recipe(guide={"blocks": [1, 7, 9]}))
