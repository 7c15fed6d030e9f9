"""Rectified flow: the printed equations, the sampler's sigmas, and Euler steps where the solution is known."""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from alchemint.diffusion import flow


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def scheduler_of(num_inference_steps: int, shift: float = 5.66) -> FlowMatchEulerDiscreteScheduler:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=flow.sampling_sigmas(num_inference_steps))
    return scheduler


def test_the_last_sigmas_are_those_of_one_shift() -> None:
    sigmas = scheduler_of(40).sigmas.tolist()
    expected = [5.66 * u / (1 + 4.66 * u) for u in (1 - step / 40 for step in range(40))]
    assert sigmas == pytest.approx([*expected, 0.0], abs=1e-6)
    assert [f"{sigma:.3f}" for sigma in sigmas[-3:-1]] == ["0.230", "0.127"]


def test_diffusers_own_sigmas_are_shifted_twice() -> None:
    """Why sigmas are always handed over; when this fails, diffusers has mended it."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=5.66)
    scheduler.set_timesteps(40)
    assert [f"{sigma:.3f}" for sigma in scheduler.sigmas[-3:-1].tolist()] == ["0.154", "0.031"]


def test_timesteps_are_a_thousand_sigmas() -> None:
    scheduler = scheduler_of(7)
    assert torch.allclose(scheduler.timesteps, scheduler.sigmas[:-1] * flow.NUM_TRAIN_TIMESTEPS)


@pytest.mark.parametrize("num_steps", [1, 3, 40])
def test_euler_steps_along_a_straight_path_end_at_its_end(num_steps: int) -> None:
    """v(z, t) = (z - data) / t is the flow to a single point: straight paths, so that Euler is exact."""
    data, sample = random(2, 4, 3), random(2, 4, 3, seed=1)
    scheduler = scheduler_of(num_steps)
    for timestep in scheduler.timesteps:
        velocity = (sample - data) / (timestep / flow.NUM_TRAIN_TIMESTEPS)
        sample = scheduler.step(velocity, timestep, sample, return_dict=False)[0]
    assert torch.allclose(sample, data, atol=1e-5)


def test_euler_steps_converge_on_a_linear_field() -> None:
    """dz/dt = z from t = 1 to 0 ends at z / e; the error falls with the number of steps."""
    start = random(8)
    errors = []
    for num_steps in (10, 40, 160):
        sample, scheduler = start, scheduler_of(num_steps, shift=1.0)
        for timestep in scheduler.timesteps:
            sample = scheduler.step(sample, timestep, sample, return_dict=False)[0]
        errors.append((sample - start / torch.e).abs().max().item())
    assert errors[0] > 3 * errors[1] > 9 * errors[2]
    assert errors[2] < 5e-3


def test_a_path_leads_from_data_to_noise_at_its_velocity() -> None:
    latents, noise = random(3, 4, 2, 2), random(3, 4, 2, 2, seed=1)
    t = torch.tensor([0.0, 0.3, 1.0])
    path = flow.interpolate(latents, noise, t)
    assert torch.equal(path[0], latents[0])
    assert torch.equal(path[2], noise[2])
    later = flow.interpolate(latents, noise, t + 1e-2)
    assert torch.allclose((later - path) / 1e-2, flow.velocity(latents, noise), atol=1e-3)


def test_a_shift_keeps_the_ends_and_composes() -> None:
    t = torch.linspace(0, 1, 11)
    assert torch.equal(flow.shift_time(t, 1.0), t)
    shifted = flow.shift_time(t, 3.0)
    assert (shifted[0], shifted[-1]) == (0, 1)
    assert (shifted[1:-1] > t[1:-1]).all()
    assert torch.allclose(flow.shift_time(shifted, 2.0), flow.shift_time(t, 6.0))


def test_the_loss_is_a_weighted_mean_over_positions() -> None:
    prediction, target, weight = random(2, 3, 2, 4, 5), random(2, 3, 2, 4, 5, seed=1), random(2, 2, 4, 5, seed=2).abs()
    total, norm = [0.0, 0.0], [0.0, 0.0]
    for b, f, y, x in torch.cartesian_prod(*map(torch.arange, (2, 2, 4, 5))).tolist():
        error = sum((prediction[b, c, f, y, x] - target[b, c, f, y, x]).item() ** 2 for c in range(3)) / 3
        total[b] += weight[b, f, y, x].item() * error
        norm[b] += weight[b, f, y, x].item()
    losses = flow.flow_loss(prediction, target, weight)
    assert losses.tolist() == pytest.approx([total[row] / norm[row] for row in range(2)], rel=1e-5)
    assert torch.allclose(flow.flow_loss(prediction, target, weight), flow.flow_loss(prediction, target, 7 * weight))
    plain = flow.flow_loss(prediction, target, torch.ones_like(weight))
    assert torch.allclose(plain.mean(), torch.nn.functional.mse_loss(prediction, target))
