"""Pixels to normalised latents of diffusers' AutoencoderKLWan, and back.

Wan's transformer works on latents normalised by the VAE's per-channel mean and deviation, which the VAE itself leaves
to its caller. Shapes: videos (batch, 3, frames, height, width) in -1..1; latents (batch, C, T, H, W).
"""

import torch
from diffusers import AutoencoderKLWan

Tensor = torch.Tensor


def as_pixels(frames: Tensor) -> Tensor:
    """Convert uint8 0..255 to float32 -1..1."""
    return frames.float() / 127.5 - 1


def as_uint8(pixels: Tensor) -> Tensor:
    """Convert -1..1 to uint8 0..255."""
    return ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def encode_video(vae: AutoencoderKLWan, pixels: Tensor) -> Tensor:
    """Return the normalised latents (the mode of the posterior) of a video."""
    mean, std = _statistics(vae, pixels)
    return (vae.encode(pixels.to(vae.dtype)).latent_dist.mode().float() - mean) / std


def encode_images(vae: AutoencoderKLWan, pixels: Tensor) -> Tensor:
    """Return the normalised latents (batch, C, H, W) of images (batch, 3, height, width) as one-frame videos."""
    return encode_video(vae, pixels.unsqueeze(2)).squeeze(2)


def decode_video(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """Return the video of normalised latents."""
    mean, std = _statistics(vae, latents)
    return vae.decode((latents.float() * std + mean).to(vae.dtype)).sample


def _statistics(vae: AutoencoderKLWan, like: Tensor) -> tuple[Tensor, Tensor]:
    mean, std = (torch.tensor(values, dtype=torch.float32, device=like.device).view(1, -1, 1, 1, 1)
                 for values in (vae.config.latents_mean, vae.config.latents_std))
    return mean, std
