"""The video VAE's objective: diffusers' AutoencoderKLWan from scratch, on windows of clips.

    loss = |x - x'| + square_weight (x - x')^2 + edge_weight |grad x - grad x'| + kl_weight KL(q(z|x) || N(0, 1))

with subjects' pixels weighted up. In a share of the steps x and the latents are moved alike before they are decoded and
compared (EQ-VAE, arXiv 2502.09509), so that latents change with what they show as smoothly as pictures do.
The edge term (differences of neighbouring pixels) keeps outlines sharp where a perceptual network is not at hand.
"""

import functools
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, WanResample, WanResidualBlock
from einops import rearrange
from torch import nn
from torch.utils.data import Dataset

from alchemint import media
from alchemint.data.clips import ClipSource
from alchemint.data.windows import PixelWindows, WindowBatch, WindowOptions
from alchemint.model.latents import as_pixels, as_uint8
from alchemint.training.draws import Draws
from alchemint.training.ranks import Ranks
from alchemint.training.recipe import Optimizer, VaeRecipe

_SHEET_CLIPS = 6
_STATISTICS_CLIPS = 64


class VaeObjective:
    """Trains `vae` to reproduce windows of the clips of `source`."""

    def __init__(self, recipe: VaeRecipe, source: ClipSource, heldout: ClipSource) -> None:
        torch.manual_seed(recipe.seed)
        if recipe.init_from is not None:
            self.vae = AutoencoderKLWan.from_pretrained(recipe.init_from)
        else:
            self.vae = AutoencoderKLWan(**recipe.model)
            prepare_from_scratch(self.vae)
        if set(recipe.window_lengths) == {1}:
            convolve_frames_in_space_alone(self.vae)
        self.modules: dict[str, nn.Module] = {"vae": self.vae}
        self._frozen = [self.vae.encoder, self.vae.quant_conv] if recipe.trained == "decoder" else []
        for module in self._frozen:
            module.requires_grad_(False)
        self._recipe = recipe
        self._source = source
        self._heldout = heldout

    def place(self, device: torch.device, ranks: Ranks, bfloat16: bool) -> None:
        """Bring the VAE to the device.

        Raises ValueError for shards and shared tokens, which a VAE does not have.
        """
        if ranks.work_as_one:
            raise ValueError("a VAE is trained with whole weights and whole videos: leave out run.num_shards and "
                             "run.context_parallel")
        self.vae.to(device)

    def parameter_groups(self, optimizer: Optimizer) -> list[dict[str, Any]]:
        """Return one group: all that is trained."""
        return [{"params": [parameter for parameter in self.vae.parameters() if parameter.requires_grad],
                 "lr": optimizer.lr}]

    def matrices(self) -> list[nn.Parameter]:
        """Return the weights of all convolutions but the first and the last of encoder and decoder."""
        return [parameter for name, parameter in self.vae.named_parameters()
                if parameter.requires_grad and parameter.ndim >= 4 and not ("conv_in" in name or "conv_out" in name)
                and min(len(parameter), parameter[0].numel()) > 1]

    def batches(self, num_steps: int, share: tuple[int, int]) -> Dataset[Any]:
        """Return the dataset of pixel windows."""
        options = WindowOptions(self._recipe.run.batch_size // share[1], self._recipe.window_lengths, share=share)
        return PixelWindows(self._source, options, self._recipe.seed, num_steps)

    def loss(self, batch: WindowBatch, draws: Draws) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the loss of a batch of windows."""
        pixels = as_pixels(batch.pixels)
        with torch.set_grad_enabled(not self._frozen):
            posterior = self.vae.encode(pixels).latent_dist
        generator = draws.of_part()
        latents, weight = posterior.sample(generator), 1 + self._recipe.subject_weight * batch.subject_mask.float()
        if torch.rand((), generator=generator, device=generator.device) < self._recipe.moved_share:
            move = draw_moves(len(pixels), generator)
            latents, pixels, weight = moved(latents, move), moved(pixels, move), moved(weight, move)
        decoded = self.vae.decode(latents).sample.float()
        error = decoded - pixels
        reconstruction = weighted_mean(error.abs(), weight)
        edges = (weighted_mean(error.diff(dim=-1).abs(), weight[..., 1:])
                 + weighted_mean(error.diff(dim=-2).abs(), weight[..., 1:, :]))
        kl = 0.5 * (posterior.mean.float().square() + posterior.var.float() - 1 - posterior.logvar.float()).mean()
        square = weighted_mean(error.square(), weight)
        loss = reconstruction + self._recipe.square_weight * square + self._recipe.edge_weight * edges
        loss = loss + self._recipe.kl_weight * kl
        return loss, {"reconstruction": reconstruction, "edges": edges, "kl": kl}

    def flops(self, batch: WindowBatch) -> float:
        """Return 0: convolutions are not counted."""
        return 0.0

    @torch.no_grad()
    def write_sheet(self, path: Path) -> dict[str, float]:
        """Write held-out clips (odd rows) above what the VAE makes of them (even rows), enlarged three times."""
        clips = torch.stack([torch.from_numpy(self._heldout(number, None).frames) for number in range(_SHEET_CLIPS)])
        pixels = as_pixels(clips.permute(0, 4, 1, 2, 3).to(self.vae.device))
        decoded = self.vae.decode(self.vae.encode(pixels).latent_dist.mode()).sample
        frames = as_uint8(decoded).permute(0, 2, 3, 4, 1).cpu().numpy()
        rows = [np.concatenate(list(video[::3]), axis=1)
                for pair in zip(clips.numpy(), frames, strict=True) for video in pair]
        media.write_image(path, np.concatenate(rows).repeat(3, axis=0).repeat(3, axis=1))
        return {"sheet_l1": float((decoded - pixels).abs().mean())}

    def export(self, folder: Path) -> None:
        """Write the VAE with the mean and the deviation of its latents in its config.

        Those of a frozen encoder stay as they are: a transformer may have learned with them already.
        """
        if not self._frozen:
            mean, std = self._latent_statistics()
            self.vae.register_to_config(latents_mean=mean, latents_std=std)
        self.vae.save_pretrained(folder / "vae")

    @torch.no_grad()
    def _latent_statistics(self) -> tuple[list[float], list[float]]:
        latents = []
        for number in range(_STATISTICS_CLIPS):
            frames = torch.from_numpy(self._source(number, None).frames)[None].permute(0, 4, 1, 2, 3)
            latents.append(self.vae.encode(as_pixels(frames.to(self.vae.device))).latent_dist.mode().float())
        flat = torch.cat(latents).transpose(0, 1).flatten(1)
        return [round(value, 5) for value in flat.mean(1).tolist()], [round(value, 5) for value in flat.std(1).tolist()]


def convolve_frames_in_space_alone(vae: AutoencoderKLWan) -> None:
    """Let convolutions leave out the taps that meet but padding when a video has one frame, two of three.

    It computes the same, in a third of the time.
    """
    for module in vae.modules():
        if isinstance(module, WanCausalConv3d) and module.stride[0] == 1 and module.kernel_size[0] > 1:
            module.forward = functools.partial(_convolved, module)


def _convolved(module: WanCausalConv3d, x: torch.Tensor, cache_x: torch.Tensor | None = None) -> torch.Tensor:
    if cache_x is not None or x.shape[2] != 1:
        return WanCausalConv3d.forward(module, x, cache_x)
    around = module._padding[2], module._padding[0]
    flat = F.conv2d(x[:, :, 0], module.weight[:, :, -1], module.bias, module.stride[1:], around)
    return flat.unsqueeze(2)


def draw_moves(count: int, generator: torch.Generator) -> torch.Tensor:
    """Draw affine maps (count, 2, 3) in the form of torch's affine_grid: turned by up to 20 degrees, scaled by 0.8 to
    1.25, shifted by up to a sixteenth of the picture."""
    draws = torch.rand(4, count, generator=generator, device=generator.device) * 2 - 1
    angle, scale = draws[0] * math.radians(20), 1.25 ** draws[1]
    cos, sin = angle.cos() * scale, angle.sin() * scale
    shift = draws[2:] / 8
    return torch.stack([torch.stack([cos, -sin, shift[0]], -1), torch.stack([sin, cos, shift[1]], -1)], 1)


def moved(videos: torch.Tensor, move: torch.Tensor) -> torch.Tensor:
    """Return (batch, channels, frames, height, width), each moved by its map; what lies outside repeats the border."""
    frames = rearrange(videos, "b c t h w -> (b t) c h w").float()
    grid = F.affine_grid(move.repeat_interleave(videos.shape[2], 0), list(frames.shape), align_corners=False)
    shown = F.grid_sample(frames, grid, padding_mode="border", align_corners=False)
    return rearrange(shown, "(b t) c h w -> b c t h w", b=len(videos))


def weighted_mean(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return the mean of (batch, 3, frames, height, width), weighted by (batch, 1, frames, height, width)."""
    return (values.mean(1, keepdim=True) * weight).sum() / weight.sum()


def prepare_from_scratch(vae: AutoencoderKLWan) -> None:
    """Give a VAE first weights from which it learns much faster than from diffusers' own.

    Every residual block begins as the identity; the posterior with a deviation of 0.05, so that the decoder sees the
    picture rather than noise from the first step on; and time as a row of single frames, of which a latent holds
    one, so that what is learned on single frames (as Wan's own VAE was, first) holds for videos.
    """
    for module in vae.modules():
        if isinstance(module, WanResidualBlock):
            nn.init.zeros_(module.conv2.weight)
            nn.init.zeros_(module.conv2.bias)
    with torch.no_grad():
        vae.quant_conv.weight[vae.config.z_dim:] = 0
        vae.quant_conv.bias[vae.config.z_dim:] = -6
    as_single_frames(vae)


@torch.no_grad()
def as_single_frames(vae: AutoencoderKLWan) -> None:
    """Let a VAE's convolutions treat every frame by itself, as they treat a video of one frame.

    A latent then holds one of its four frames, the third: the nearest to their middle that the first stage's taps
    reach. (The shortcuts of the residual kind still average over time.)
    """
    for module in vae.modules():
        if isinstance(module, WanCausalConv3d):
            module.weight[:, :, :-1] = 0
    tap = -2
    for module in vae.modules():
        if isinstance(module, WanResample) and hasattr(module, "time_conv"):
            # Downwards every second frame stays, in the first stage the earlier one; upwards every frame is doubled.
            channels = module.time_conv.in_channels
            copies = module.time_conv.out_channels // channels
            kept = tap if module.mode == "downsample3d" else -1
            module.time_conv.weight.zero_()
            module.time_conv.weight[:, :, kept, 0, 0] = torch.eye(channels).repeat(copies, 1)
            module.time_conv.bias.zero_()
            tap = -1
