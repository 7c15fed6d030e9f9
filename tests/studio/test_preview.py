"""The linear stand-in for the shipped toy model's VAE."""

import time
from collections.abc import Iterator
from io import BytesIO

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan
from PIL import Image

from alchemint.cli.models import TOY_FOLDER
from alchemint.model.latents import as_pixels, decode_video, encode_video
from alchemint.studio.preview import LinearDecoder, preview
from alchemint.toyworld import WorldConfig, render_clip


@pytest.fixture(scope="module")
def toy_vae() -> AutoencoderKLWan:
    return AutoencoderKLWan.from_pretrained(TOY_FOLDER / "vae").eval()


@pytest.fixture(scope="module")
def latents(toy_vae: AutoencoderKLWan) -> torch.Tensor:
    """Of a clip of the toyworld, (1, C, T, h, w)."""
    frames = torch.from_numpy(render_clip("heldout", 3, WorldConfig()).frames).permute(3, 0, 1, 2)[None]
    with torch.no_grad():
        return encode_video(toy_vae, as_pixels(frames))


@pytest.fixture
def no_cpu_noise() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@torch.no_grad()
def test_it_comes_near_to_what_the_vae_decodes(toy_vae: AutoencoderKLWan, latents: torch.Tensor) -> None:
    wanted = decode_video(toy_vae, latents)[0, :, ::4].transpose(0, 1)
    decoded = LinearDecoder.of(toy_vae).decode(latents[0].transpose(0, 1))
    assert decoded.shape == wanted.shape == (9, 3, 64, 64)

    def rms(error: torch.Tensor) -> float:
        return float(error.square().mean().sqrt())

    assert rms(decoded - wanted) < 0.16
    assert rms(decoded - wanted) < 0.42 * rms(wanted - wanted.mean((2, 3), keepdim=True))
    assert rms(decoded - wanted.roll(4, 3)) > 1.3 * rms(decoded - wanted)  # a latent's place aside


def test_it_is_fitted_once_and_always_alike(toy_vae: AutoencoderKLWan) -> None:
    first = LinearDecoder.of(toy_vae)
    assert LinearDecoder.of(toy_vae) is first
    sample = torch.randn(2, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    state = torch.get_rng_state()
    again = LinearDecoder.of(AutoencoderKLWan.from_pretrained(TOY_FOLDER / "vae").eval())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.allclose(again.decode(sample), first.decode(sample), atol=1e-4)


def test_other_strides_and_channels_are_fitted(vae: AutoencoderKLWan) -> None:
    decoded = LinearDecoder.of(vae).decode(torch.zeros(3, 4, 5, 6))
    assert decoded.shape == (3, 3, 40, 48)
    assert torch.isfinite(decoded).all()


def test_a_strip_has_the_latents_in_order(toy_vae: AutoencoderKLWan, latents: torch.Tensor) -> None:
    decoder = LinearDecoder.of(toy_vae)
    strip = Image.open(BytesIO(preview(latents[0], decoder)))
    assert (strip.format, strip.size) == ("PNG", (9 * 64, 64))
    pictures = ((decoder.decode(latents[0].transpose(0, 1)).clamp(-1, 1) + 1) * 127.5).round().byte()
    tiles = np.asarray(strip).reshape(64, 9, 64, 3).transpose(1, 3, 0, 2)
    # Nine equal parts of 32 frames have their middles at 2, 5, 9, 12, 16, 20, 23, 27 and 30.
    assert np.array_equal(tiles, pictures[[1, 2, 3, 3, 4, 5, 6, 7, 8]].numpy())


def test_large_and_long_videos_have_a_bounded_strip(toy_vae: AutoencoderKLWan) -> None:
    strip = Image.open(BytesIO(preview(torch.zeros(8, 40, 60, 104), LinearDecoder.of(toy_vae))))
    assert strip.size == (12 * 250, 144)


@pytest.mark.usefixtures("no_cpu_noise")
@torch.no_grad()
def test_it_is_much_quicker_than_the_vae(toy_vae: AutoencoderKLWan, latents: torch.Tensor) -> None:
    decoder = LinearDecoder.of(toy_vae)

    def quickest(work: object) -> float:
        assert callable(work)
        times = []
        for _ in range(3):
            begun = time.perf_counter()
            work()
            times.append(time.perf_counter() - begun)
        return min(times)

    assert quickest(lambda: preview(latents[0], decoder)) < 0.2 * quickest(lambda: decode_video(toy_vae, latents))
