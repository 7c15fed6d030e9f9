"""The VAE's objective: its terms against loops, its start as an identity, the statistics that it exports."""

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanResidualBlock
from PIL import Image

from alchemint.model.latents import as_pixels, encode_video
from alchemint.training import loop
from alchemint.training.draws import Draws
from alchemint.training.optimizers import Optimizers
from alchemint.training.recipe import VaeRecipe
from alchemint.training.vae import (
    VaeObjective,
    as_single_frames,
    convolve_frames_in_space_alone,
    draw_moves,
    moved,
)

NewObjective = Callable[[VaeRecipe], VaeObjective]


def weighted(values: torch.Tensor, weight: torch.Tensor) -> float:
    """The mean of (..., 3, F, H, W) over everything, with one weight (..., 1, F, H, W) for a pixel's three channels."""
    weight = weight.expand_as(values)
    return ((values * weight).sum() / weight.sum()).item()


def test_the_loss_is_its_printed_sum(vae_recipe: Callable[..., VaeRecipe], new_objective: NewObjective) -> None:
    objective = new_objective(vae_recipe(kl_weight=0.1, edge_weight=0.7, square_weight=2.0, subject_weight=3.0))
    batch = objective.batches(1, (0, 1))[0]
    assert batch.subject_mask.any()
    loss, parts = objective.loss(batch, Draws(3, 0))

    pixels = as_pixels(batch.pixels)
    posterior = objective.vae.encode(pixels).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=Draws(3, 0).of_part())
    error = objective.vae.decode(posterior.mean + posterior.std * noise).sample - pixels
    weight = torch.where(batch.subject_mask, 4.0, 1.0)
    across = weighted((error[..., 1:] - error[..., :-1]).abs(), weight[..., 1:])
    down = weighted((error[..., 1:, :] - error[..., :-1, :]).abs(), weight[..., 1:, :])
    divergence = torch.distributions.kl_divergence(
        torch.distributions.Normal(posterior.mean, posterior.std), torch.distributions.Normal(0.0, 1.0)).mean().item()
    expected = (weighted(error.abs(), weight) + 2.0 * weighted(error.square(), weight) + 0.7 * (across + down)
                + 0.1 * divergence)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert parts["kl"].item() == pytest.approx(divergence, rel=1e-5)
    assert parts["edges"].item() == pytest.approx(across + down, rel=1e-5)


def test_a_run_may_start_from_an_exported_vae(
    vae_recipe: Callable[..., VaeRecipe], new_objective: NewObjective, tmp_path: Path
) -> None:
    first = new_objective(vae_recipe())
    first.export(tmp_path)
    second = new_objective(vae_recipe(init_from=tmp_path / "vae", seed=1))
    assert all(torch.equal(tensor, second.vae.state_dict()[name]) for name, tensor in first.vae.state_dict().items())


def test_a_decoder_is_trained_on_latents_that_stay(
    vae_recipe: Callable[..., VaeRecipe], new_objective: NewObjective, tmp_path: Path
) -> None:
    new_objective(vae_recipe()).export(tmp_path)
    before = AutoencoderKLWan.from_pretrained(tmp_path / "vae")
    recipe = vae_recipe(init_from=tmp_path / "vae", trained="decoder", optimizer={"muon_lr": 0.02}, output=tmp_path)
    objective = new_objective(recipe)
    loop.train(objective, recipe)
    after = AutoencoderKLWan.from_pretrained(tmp_path / "export" / "vae")
    assert (after.config.latents_mean, after.config.latents_std) == (
        before.config.latents_mean, before.config.latents_std)
    for part in ("encoder", "quant_conv", "decoder", "post_quant_conv"):
        same = [torch.equal(new, old) for new, old in zip(
            getattr(after, part).parameters(), getattr(before, part).parameters(), strict=True)]
        assert all(same) if part in ("encoder", "quant_conv") else not all(same)


def test_a_decoder_alone_needs_an_encoder(vae_recipe: Callable[..., VaeRecipe]) -> None:
    with pytest.raises(ValueError, match="trained: decoder needs the exported VAE"):
        vae_recipe(trained="decoder")


def test_residual_blocks_begin_as_their_shortcut(
    vae_recipe: Callable[..., VaeRecipe], new_objective: NewObjective
) -> None:
    blocks = [module for module in new_objective(vae_recipe()).vae.modules() if isinstance(module, WanResidualBlock)]
    assert blocks
    for block in blocks:
        hidden = torch.randn(1, block.in_dim, 2, 4, 4)
        assert torch.equal(block(hidden), block.conv_shortcut(hidden))


def test_a_batch_is_learnt_by_heart(vae_recipe: Callable[..., VaeRecipe], new_objective: NewObjective) -> None:
    recipe = vae_recipe(optimizer={"lr": 3e-3, "muon_lr": 0.02})
    objective = new_objective(recipe)
    optimizers = Optimizers(objective.parameter_groups(recipe.optimizer), objective.matrices(), recipe.optimizer)
    batch = objective.batches(1, (0, 1))[0]
    losses = []
    for _ in range(60):
        loss, _ = objective.loss(batch, Draws(0, 0))
        loss.backward()
        optimizers.step(1.0)
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_muon_has_the_hidden_convolutions_alone(
    vae_recipe: Callable[..., VaeRecipe], new_objective: NewObjective
) -> None:
    objective = new_objective(vae_recipe())
    matrices = {id(parameter) for parameter in objective.matrices()}
    for name, parameter in objective.vae.named_parameters():
        hidden = parameter.ndim >= 4 and min(parameter.shape[0], math.prod(parameter.shape[1:])) > 1
        assert (id(parameter) in matrices) == (hidden and "conv_in" not in name and "conv_out" not in name), name


@torch.no_grad()
def test_exported_statistics_make_latents_normal(
    vae_recipe: Callable[..., VaeRecipe], new_objective: NewObjective, source: Callable[..., Any]
) -> None:
    recipe = vae_recipe()
    objective = new_objective(recipe)
    objective.export(recipe.output)
    vae = AutoencoderKLWan.from_pretrained(recipe.output / "vae")
    latents = torch.cat([encode_video(vae, as_pixels(torch.from_numpy(source(number, None).frames).permute(
        3, 0, 1, 2)[None])) for number in range(6)])
    assert torch.allclose(latents.mean((0, 2, 3, 4)), torch.zeros(4), atol=1e-2)
    assert torch.allclose(latents.std((0, 2, 3, 4)), torch.ones(4), atol=1e-2)


def test_a_sheet_shows_clips_above_their_reconstructions(
    vae_recipe: Callable[..., VaeRecipe], new_objective: NewObjective
) -> None:
    recipe = vae_recipe()
    new_objective(recipe).write_sheet(recipe.output / "sheet.png")
    with Image.open(recipe.output / "sheet.png") as sheet:
        assert sheet.size == (3 * 32 * 5, 3 * 32 * 12)


@torch.no_grad()
def test_a_vae_of_single_frames_holds_the_third_frame_of_each_latent(vae: AutoencoderKLWan) -> None:
    sizes = {name: value for name, value in vae.config.items() if not name.startswith("_")}
    framewise = AutoencoderKLWan(**{**sizes, "is_residual": False}).eval()
    video = torch.rand(1, 3, 9, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def latents_apart() -> torch.Tensor:
        return torch.cat([framewise.encode(video[:, :, [held]]).latent_dist.mode() for held in (0, 3, 7)], dim=2)

    assert not torch.allclose(framewise.encode(video).latent_dist.mode(), latents_apart(), atol=1e-3)
    as_single_frames(framewise)
    torch.testing.assert_close(framewise.encode(video).latent_dist.mode(), latents_apart())
    decoded = framewise.decode(latents_apart()).sample
    apart = torch.cat([framewise.decode(latent).sample for latent in latents_apart().split(1, dim=2)], dim=2)
    torch.testing.assert_close(decoded[:, :, [0, 4, 8]], apart)
    torch.testing.assert_close(decoded[:, :, 1:4], decoded[:, :, [4]].expand(-1, -1, 3, -1, -1))


def test_single_frames_are_convolved_in_space_alone_to_the_same_result_and_gradients(vae: AutoencoderKLWan) -> None:
    """Of videos too, which still see their frames before."""
    reduced = copy.deepcopy(vae)
    convolve_frames_in_space_alone(reduced)
    generator = torch.Generator().manual_seed(0)
    for num_frames in (1, 5):
        pixels = torch.rand(2, 3, num_frames, 32, 32, generator=generator) * 2 - 1
        made = [one.decode(one.encode(pixels).latent_dist.mode()).sample for one in (vae, reduced)]
        assert torch.allclose(*made, atol=1e-5)
    frame = torch.rand(1, 3, 1, 32, 32, generator=generator)
    for one in (vae, reduced):
        one.zero_grad()
        one.decode(one.encode(frame).latent_dist.mode()).sample.square().sum().backward()
    for (name, expected), found in zip(vae.named_parameters(), reduced.parameters(), strict=True):
        if expected.grad is None or found.grad is None:
            assert expected.grad is None and found.grad is None, name
        else:
            assert torch.allclose(found.grad, expected.grad, atol=1e-4 * expected.grad.abs().max().item() + 1e-7), name


def test_moved_videos_show_what_lay_elsewhere() -> None:
    """A shift by whole pixels against a slice, a turn by a quarter against rot90, and all frames alike."""
    videos = torch.rand(2, 3, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    shift = torch.tensor([[1.0, 0, 2 * 2 / 8], [0, 1, 0]]).expand(2, -1, -1)
    assert torch.allclose(moved(videos, shift)[..., :-2], videos[..., 2:], atol=1e-5)
    turn = torch.tensor([[0.0, -1, 0], [1, 0, 0]]).expand(2, -1, -1)
    assert torch.allclose(moved(videos, turn), torch.rot90(videos, 1, (-2, -1)), atol=1e-5)
    assert torch.allclose(moved(videos, torch.eye(3)[:2].expand(2, -1, -1)), videos, atol=1e-5)


def test_moves_turn_scale_and_shift_within_their_ranges() -> None:
    moves = draw_moves(4000, torch.Generator().manual_seed(0))
    scales = torch.linalg.det(moves[:, :, :2]).sqrt()
    angles = torch.atan2(moves[:, 1, 0], moves[:, 0, 0]).rad2deg()
    assert 0.8 - 1e-4 < scales.min() < 0.82
    assert 1.22 < scales.max() < 1.25 + 1e-4
    assert 19 < angles.abs().max() < 20.01
    assert 0.12 < moves[:, :, 2].abs().max() <= 0.125


def test_moved_latents_are_to_show_moved_pictures(
    vae_recipe: Callable[..., VaeRecipe], new_objective: NewObjective
) -> None:
    """The terms that the log shows are those of pixels and latents that went through the same map."""
    objective = new_objective(vae_recipe(moved_share=1.0, kl_weight=0.0))
    batch = objective.batches(1, (0, 1))[0]
    _, parts = objective.loss(batch, Draws(3, 0))
    generator = Draws(3, 0).of_part()
    pixels = as_pixels(batch.pixels)
    latents = objective.vae.encode(pixels).latent_dist.sample(generator)
    torch.rand((), generator=generator)
    move = draw_moves(len(pixels), generator)
    error = objective.vae.decode(moved(latents, move)).sample - moved(pixels, move)
    weight = moved(1 + objective._recipe.subject_weight * batch.subject_mask.float(), move)
    assert parts["reconstruction"].item() == pytest.approx(weighted(error.abs(), weight), rel=1e-4)
