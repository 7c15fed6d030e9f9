"""The steps of a batch against a plain loop over the transformer: experts, encoded references, known latents."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from alchemint.denoising import Conditions, Evaluating, Expert, GuidedVelocity, steps
from alchemint.diffusion.guidance import BOTH, IMAGES, NEITHER, TEXT, Branch, Guidance
from alchemint.model.conditions import References
from alchemint.model.transformer import AlchemintTransformer3DModel

NewTransformer = Callable[..., AlchemintTransformer3DModel]

BATCH, NUM_STEPS, SHIFT = 2, 5, 3.0
SHAPE = (BATCH, 4, 3, 8, 8)
GUIDANCE = Guidance("chained", 3.0, 2.0, image_interval=(0.0, 0.5))


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def conditions() -> dict[Branch, Conditions]:
    references = References(
        random(BATCH, 2, 4, 8, 8, seed=1), torch.tensor([[[0.0, 1.0], [0.5, 2.0]]]).expand(BATCH, -1, -1),
        torch.tensor([[0, 1]]).expand(BATCH, -1), random(BATCH, 2, 4, 16, seed=2), torch.ones(BATCH, 2, 4).bool())
    without = references._replace(latents=torch.zeros_like(references.latents))
    prompts = {text: random(BATCH, 7, 16, seed=3 + text) for text in (False, True)}
    return {(images, text): Conditions(prompts[text], references if images else without, None)
            for images, text in (NEITHER, IMAGES, TEXT, BOTH)}


def denoise(velocity: GuidedVelocity, noise: torch.Tensor, **options: Any) -> list[torch.Tensor]:
    """The sample after each step."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=SHIFT)
    with torch.no_grad():
        return [step.sample for step in steps(scheduler, velocity, noise, NUM_STEPS, **options)]


def sigmas() -> list[float]:
    return [SHIFT * u / (1 + (SHIFT - 1) * u) for u in (1 - number / NUM_STEPS for number in range(NUM_STEPS + 1))]


@torch.no_grad()
def slowly(model_at: Callable[[float], tuple[AlchemintTransformer3DModel, Guidance]],
           conditions: dict[Branch, Conditions], noise: torch.Tensor) -> torch.Tensor:
    """The latents after all steps, every branch of every step evaluated by itself."""
    sample = noise
    for number, (sigma, following) in enumerate(zip(sigmas()[:-1], sigmas()[1:], strict=True)):
        model, guidance = model_at(sigma)
        velocity = torch.zeros_like(sample)
        for branch, weight in guidance.weights(number / NUM_STEPS).items():
            given = conditions[branch]
            velocity += weight * model(sample, torch.full((BATCH,), 1000 * sigma), given.prompt_embeds,
                                       given.references).sample
        sample = sample + (following - sigma) * velocity
    return sample


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("reference_attention", ["full", "one_way"])
def test_the_steps_are_those_of_a_plain_loop(
    new_transformer: NewTransformer, conditions: dict[Branch, Conditions], reference_attention: str, batched: bool
) -> None:
    model, noise = new_transformer(reference_attention=reference_attention), random(*SHAPE)
    velocity = GuidedVelocity([Expert(model, GUIDANCE, 0.0)], conditions, Evaluating(batched=batched))
    expected = slowly(lambda _: (model, GUIDANCE), conditions, noise)
    assert torch.allclose(denoise(velocity, noise)[-1], expected, atol=1e-4)


@pytest.mark.parametrize(("batched", "encodings", "evaluations"), [(False, 3, 3 * 3 + 2 * 2), (True, 2, 5)])
def test_references_are_encoded_once_for_each_set_of_branches(
    new_transformer: NewTransformer, conditions: dict[Branch, Conditions], batched: bool, encodings: int,
    evaluations: int
) -> None:
    """With images' guidance in three of five steps: one by one three branches; as a batch three, then two."""
    model = new_transformer(reference_attention="one_way")
    lengths: list[int] = []
    model.blocks[0].register_forward_hook(lambda _module, args, _output: lengths.append(args[0].shape[1]))
    denoise(GuidedVelocity([Expert(model, GUIDANCE, 0.0)], conditions, Evaluating(batched=batched)), random(*SHAPE))
    video, references = 3 * 4 * 4, 2 * (4 * 4 + 4)
    assert lengths.count(references) == encodings
    assert lengths.count(video) == evaluations
    assert len(lengths) == encodings + evaluations


def test_each_expert_has_its_timesteps_and_its_guidance(
    new_transformer: NewTransformer, conditions: dict[Branch, Conditions]
) -> None:
    models = [new_transformer(seed, reference_attention="one_way") for seed in (0, 1)]
    guidances = [Guidance("chained", 3.0, 2.0), Guidance("joint", 1.5, 0.5, 1.0)]
    boundary = sigmas()[2]  # the third step is the last of the first expert
    velocity = GuidedVelocity([Expert(models[0], guidances[0], 1000 * boundary - 1e-3),
                               Expert(models[1], guidances[1], 0.0)], conditions, Evaluating())
    noise = random(*SHAPE)
    expected = slowly(lambda sigma: (models[0], guidances[0]) if sigma >= boundary else (models[1], guidances[1]),
                      conditions, noise)
    assert torch.allclose(denoise(velocity, noise)[-1], expected, atol=1e-4)


@pytest.mark.parametrize("expand_timesteps", [False, True])
def test_known_latents_take_part_in_every_step_and_come_out_as_they_are(
    new_transformer: NewTransformer, conditions: dict[Branch, Conditions], expand_timesteps: bool
) -> None:
    model, noise, known = new_transformer(), random(*SHAPE), random(BATCH, 4, 2, 8, 8, seed=9)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    model.register_forward_pre_hook(lambda _module, args: seen.append((args[0], args[1])))
    velocity = GuidedVelocity([Expert(model, Guidance("chained", 1.0, 1.0), 0.0)], conditions,
                              Evaluating(expand_timesteps=expand_timesteps))
    last = denoise(velocity, noise, known=known)[-1]
    assert torch.equal(last[:, :, :2], known)
    assert len(seen) == NUM_STEPS
    for (sample, timestep), sigma in zip(seen, sigmas()[:-1], strict=True):
        if expand_timesteps:
            assert torch.equal(sample[:, :, :2], known)
            by_frame = timestep.view(BATCH, 3, 16)
            assert (by_frame[:, :2] == 0).all()
            assert torch.allclose(by_frame[:, 2], torch.tensor(1000 * sigma))
        else:
            assert torch.allclose(sample[:, :, :2], (1 - sigma) * known + sigma * noise[:, :, :2], atol=1e-6)
            assert torch.allclose(timestep, torch.tensor(1000 * sigma))


def test_a_timestep_for_each_token_is_the_same_when_all_are_equal(
    new_transformer: NewTransformer, conditions: dict[Branch, Conditions]
) -> None:
    model, noise = new_transformer(), random(*SHAPE)
    one, other = (denoise(GuidedVelocity([Expert(model, GUIDANCE, 0.0)], conditions,
                                         Evaluating(expand_timesteps=expanded)), noise)[-1]
                  for expanded in (False, True))
    assert torch.allclose(one, other, atol=1e-5)
