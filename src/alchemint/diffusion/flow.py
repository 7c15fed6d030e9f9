"""Rectified flow (Liu et al., arXiv 2209.03003): noise, velocity, and the times at which it is sampled.

    z_t = (1 - t) z + t eps      target v = eps - z      t = 0 clean, t = 1 noise

sigma is t; Wan's transformer takes 1000 t as its timestep.
"""

import torch

Tensor = torch.Tensor

NUM_TRAIN_TIMESTEPS = 1000


def interpolate(latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Return z_t for latents and noise (batch, ...) and times (batch,)."""
    t = t.view(-1, *[1] * (latents.ndim - 1))
    return (1 - t) * latents + t * noise


def velocity(latents: Tensor, noise: Tensor) -> Tensor:
    """Return the target eps - z."""
    return noise - latents


def shift_time(t: Tensor, shift: float) -> Tensor:
    """Return s t / (1 + (s - 1) t): with s > 1, more of the times lie near noise."""
    return shift * t / (1 + (shift - 1) * t)


def sampling_sigmas(num_inference_steps: int) -> list[float]:
    """Return u = 1 .. 1/n, the sigmas before the shift.

    diffusers' FlowMatchEulerDiscreteScheduler applies its shift to `sigmas` it is handed once, but twice to those it
    makes itself; so it is always handed these.
    """
    return torch.linspace(1, 1 / num_inference_steps, num_inference_steps, dtype=torch.float64).tolist()


def flow_loss(prediction: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Return the weighted mean squared error of each sample (batch,) of (batch, channels, frames, height, width).

    weight: (batch, frames, height, width); its mean is divided out sample by sample, so that weighting does not scale
    the loss, and that a batch's loss is the mean of its parts', however it is divided.
    """
    error = (prediction.float() - target.float()).square().mean(1)
    return (error * weight).flatten(1).sum(1) / weight.flatten(1).sum(1)
