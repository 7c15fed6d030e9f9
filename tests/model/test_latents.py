"""Pixels to normalised latents and back, through a tiny video VAE."""

import torch
from diffusers import AutoencoderKLWan

from alchemint.model.latents import as_pixels, as_uint8, decode_video, encode_images, encode_video


def test_every_byte_comes_back() -> None:
    values = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(as_uint8(as_pixels(values)), values)
    assert as_pixels(values).min() == -1
    assert as_pixels(values).max() == 1


def test_pixels_beyond_the_range_are_cut() -> None:
    assert as_uint8(torch.tensor([-3.0, 1.5])).tolist() == [0, 255]


@torch.no_grad()
def test_latents_are_normalised_channel_by_channel(vae: AutoencoderKLWan) -> None:
    pixels = torch.rand(1, 3, 5, 32, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents, raw = encode_video(vae, pixels), vae.encode(pixels).latent_dist.mode()
    assert latents.shape == (1, 4, 2, 4, 3)
    for channel in range(4):
        mean, std = vae.config.latents_mean[channel], vae.config.latents_std[channel]
        assert torch.allclose(latents[:, channel] * std + mean, raw[:, channel], atol=1e-6)


@torch.no_grad()
def test_decoding_undoes_the_normalisation(vae: AutoencoderKLWan) -> None:
    pixels = torch.rand(1, 3, 5, 32, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    plain = vae.decode(vae.encode(pixels).latent_dist.mode()).sample
    assert plain.std() > 1e-3
    assert torch.allclose(decode_video(vae, encode_video(vae, pixels)), plain, atol=1e-5)


@torch.no_grad()
def test_an_image_is_a_video_of_one_frame(vae: AutoencoderKLWan) -> None:
    images = torch.rand(3, 3, 32, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = encode_images(vae, images)
    for image, latent in zip(images, latents, strict=True):
        assert torch.allclose(latent, encode_video(vae, image[None, :, None])[0, :, 0], atol=1e-5)
