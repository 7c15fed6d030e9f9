"""The activations of Wan's VAE: a walk through diffusers' autoencoder_kl_wan, frame by frame, whole or in tiles.

Tensors are (batch, channels, frames, height, width); all are of one size of float.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from alchemint.memory_estimate.ledger import Held, Ledger

CACHED_FRAMES = 2
TILE, TILE_STRIDE = 256, 192
"""Pixels of a tile's side, and from one tile to the next: AutoencoderKLWan's own."""


class VaeWalk:
    """A walk through an AutoencoderKLWan of a config."""

    def __init__(self, ledger: Ledger, config: Mapping[str, Any], itemsize: int, batch: int = 1) -> None:
        self.ledger, self.config, self.itemsize, self.batch = ledger, config, itemsize, batch
        self.caches: list[Held | str | None] = []
        self.next_cache = 0

    def decode(self, num_latents: int, height: int, width: int, tiled: bool = False) -> Held:
        """Walk through the decoding of latents of (num_latents, height, width); return the video."""
        tile = TILE // self.config["scale_factor_spatial"]
        if tiled and max(height, width) > tile:
            return self._tiled_decode(num_latents, height, width)
        self._clear()
        latents = self._conv(self._new(self.config["z_dim"], num_latents, height, width), kernel=(1, 1, 1))
        video = self._clamped(self._decoded(num_latents, latents.shape[3:]))
        self._clear()
        return video

    def encode(self, height: int, width: int, tiled: bool = False) -> Held:
        """Walk through the encoding of images of (height, width) pixels; return the latents."""
        patch, ratio = self.config["patch_size"] or 1, self.config["scale_factor_spatial"]
        pixels = self._new(3 * patch * patch, 1, height // patch, width // patch)
        image = pixels if patch == 1 else self.ledger.like(pixels)
        self._clear()
        if tiled and max(image.shape[3:]) > TILE:
            side_y, side_x = (min(TILE, side) for side in image.shape[3:])
            tile = _View(self.batch, image.shape[1], 1, side_y, side_x)
            self.ledger.touch(self._peak_alone(partial(VaeWalk._encoded, image=tile)))
            return self._new(2 * self.config["z_dim"], 1, height // ratio, width // ratio)
        moments = self._conv(self._encoded(image), kernel=(1, 1, 1))
        self._clear()
        del pixels
        return moments

    def _tiled_decode(self, num_latents: int, height: int, width: int) -> Held:
        ratio, channels = self.config["scale_factor_spatial"], self.config["out_channels"]
        patch = self.config["patch_size"] or 1
        tile, stride = TILE // ratio, TILE_STRIDE // ratio
        num_frames, scale = self._num_frames(num_latents), ratio // patch
        peaks: dict[tuple[int, int], int] = {}
        tiles, pieces = [], None
        for top in range(0, height, stride):
            for left in range(0, width, stride):
                size = min(tile, height - top), min(tile, width - left)
                if size not in peaks:
                    peaks[size] = self._peak_alone(
                        partial(VaeWalk._tile, num_latents=num_latents, height=size[0], width=size[1]))
                self.ledger.touch(peaks[size])
                pieces = self._new(channels, num_frames, size[0] * scale, size[1] * scale)
                tiles.append(self.ledger.like(pieces))
        rows = [self._new(channels, num_frames, min(stride, height - top) * scale, width * scale)
                for top in range(0, height, stride)]
        video = self._clamped(self._new(channels, num_frames, height * scale, width * scale))
        del tiles, pieces, rows
        return video

    def _clamped(self, video: Held) -> Held:
        """Put the VAE's own patches in their places, where it has any, and clamp."""
        if (self.config["patch_size"] or 1) > 1:
            video = self.ledger.like(video)
        return self.ledger.like(video)

    def _peak_alone(self, part: "Callable[[VaeWalk], object]") -> int:
        """Return the peak of a part of the walk, in a ledger of its own."""
        alone = VaeWalk(Ledger(), self.config, self.itemsize, self.batch)
        part(alone)
        return alone.ledger.peak

    def _tile(self, num_latents: int, height: int, width: int) -> list[Held]:
        self._clear()
        frames = []
        for number in range(num_latents):
            self.next_cache = 0
            latent = self._conv(self._new(self.config["z_dim"], 1, height, width), kernel=(1, 1, 1))
            frames.append(self._decoder(latent, number == 0))
        return frames

    def _decoded(self, num_latents: int, size: tuple[int, ...]) -> Held:
        video: Held | None = None
        for number in range(num_latents):
            self.next_cache = 0
            frames = self._decoder(_View(self.batch, self.config["z_dim"], 1, *size), number == 0)
            video = frames if video is None else self._new(
                frames.shape[1], video.shape[2] + frames.shape[2], *frames.shape[3:])
        assert video is not None
        return video

    def _num_frames(self, num_latents: int) -> int:
        return 1 + (num_latents - 1) * 2 ** sum(self.config["temperal_downsample"])

    # The networks

    def _decoder(self, latent: "Held | _View", first: bool) -> Held:
        config = self.config
        base = config["decoder_base_dim"] or config["base_dim"]
        widths = [base * factor for factor in (config["dim_mult"][-1], *config["dim_mult"][::-1])]
        upsample = config["temperal_downsample"][::-1]
        states = self._cached_conv(latent, widths[0])
        states = self._middle(states)
        for number, width in enumerate(widths[1:]):
            last = number == len(config["dim_mult"]) - 1
            states = self._up_block(states, width, not last, not last and upsample[number], first)
        states = self.ledger.like(self._norm(states))
        return self._cached_conv(states, config["out_channels"])

    def _up_block(self, states: Held, width: int, up: bool, in_time: bool, first: bool) -> Held:
        """WanUpBlock, or WanResidualUpBlock with its shortcut around all."""
        residual = self.config["is_residual"]
        called_with = states
        copy = self.ledger.like(states) if residual else None
        for _ in range(self.config["num_res_blocks"] + 1):
            states = self._residual_block(states, width)
        if up:
            states = self._upsampled(states, width if residual else width // 2, in_time)
        if copy is not None and up:
            shortcut = self._duplicated(copy, states, first and in_time)
            states = self.ledger.like(states)
            del shortcut
        del called_with
        return states

    def _duplicated(self, copy: Held, like: Held, skips_frame: bool) -> Held:
        frames = like.shape[2] + (1 if skips_frame else 0)
        repeated = self._new(like.shape[1], frames, *like.shape[3:])
        shortcut = self.ledger.like(repeated)
        del repeated
        return shortcut

    def _encoded(self, image: "Held | _View") -> Held:
        config = self.config
        states = self._cached_conv(image, config["base_dim"])
        for number, factor in enumerate(config["dim_mult"]):
            down = number < len(config["dim_mult"]) - 1
            width = config["base_dim"] * factor
            in_time = down and config["temperal_downsample"][number]
            called_with, copy = (states, self.ledger.like(states)) if config["is_residual"] else (None, None)
            for _ in range(config["num_res_blocks"]):
                states = self._residual_block(states, width)
            if down:
                states = self._downsampled(states, in_time)
            if copy is not None:
                padded = self._new(copy.shape[1], 2 if in_time else 1, *copy.shape[3:])
                shuffled = self.ledger.like(padded)
                shortcut = self.ledger.like(states)
                del padded, shuffled
                states = self.ledger.like(states)
                del shortcut
            del called_with
        states = self._middle(states)
        states = self.ledger.like(self._norm(states))
        return self._cached_conv(states, 2 * config["z_dim"])

    def _middle(self, states: Held) -> Held:
        called_with = states
        width = states.shape[1]
        states = self._residual_block(states, width)
        states = self._attention(states)
        states = self._residual_block(states, width)
        del called_with
        return states

    # Layers

    def _residual_block(self, called_with: Held, width: int) -> Held:
        shortcut = called_with if called_with.shape[1] == width else self._conv(called_with, width, kernel=(1, 1, 1))
        states = self._norm(called_with)
        states = self.ledger.like(states)
        states = self._cached_conv(states, width)
        states = self._norm(states)
        states = self.ledger.like(states)
        states = self._cached_conv(states, width)
        out = self.ledger.like(states)
        del shortcut
        return out

    def _attention(self, called_with: Held) -> Held:
        states = self.ledger.like(called_with) if called_with.shape[2] > 1 else called_with
        states = self._norm(states)
        channels, rest = states.shape[1], states.shape[2:]
        projected = self._new(3 * channels, *rest)
        projected = self._new(3 * channels, *rest)
        states = self.ledger.like(states)
        states = self.ledger.like(states)
        states = self.ledger.like(states)
        out = self.ledger.like(states)
        del projected
        return out

    def _norm(self, states: Held) -> Held:
        normalised = self.ledger.like(states)
        scaled = self.ledger.like(normalised)
        scaled = self.ledger.like(scaled)
        scaled = self.ledger.like(scaled)
        del normalised
        return scaled

    def _upsampled(self, states: Held, width: int, in_time: bool) -> Held:
        called_with = states
        channels, frames, rows, columns = states.shape[1:]
        if in_time:
            number = self._take_cache()
            cached = self.caches[number]
            if cached is None:
                self.caches[number] = "Rep"
            else:
                kept = self._frames_to_keep(states, cached)
                states = self._conv(states, 2 * channels, (3, 1, 1), cached if isinstance(cached, Held) else None)
                self.caches[number] = kept
                del cached, kept
                states = self._new(channels, 2 * frames, rows, columns)
                frames *= 2
        if frames > 1:
            states = self.ledger.like(states)
        larger = self._new(channels, frames, 2 * rows, 2 * columns)
        out = self._new(width, frames, 2 * rows, 2 * columns)
        del larger, called_with
        return out

    def _downsampled(self, states: Held, in_time: bool) -> Held:
        channels, rows, columns = states.shape[1], states.shape[3], states.shape[4]
        padded = self._new(channels, 1, rows + 1, columns + 1)
        out = self._new(channels, 1, rows // 2, columns // 2)
        del padded
        if in_time:
            self.caches[self._take_cache()] = self.ledger.like(out)
        return out

    def _cached_conv(self, states: "Held | _View", width: int) -> Held:
        """A causal convolution over 3 x 3 x 3, which keeps the last frames of its input for the next call."""
        number = self._take_cache()
        cached = self.caches[number]
        kept = self._frames_to_keep(states, cached)
        out = self._conv(states, width, (3, 3, 3), cached if isinstance(cached, Held) else None)
        self.caches[number] = kept
        return out

    def _frames_to_keep(self, states: "Held | _View", cached: "Held | str | None") -> Held:
        _, channels, frames, rows, columns = states.shape
        kept = self._new(channels, min(frames, CACHED_FRAMES), rows, columns)
        if frames < CACHED_FRAMES and cached is not None:
            kept = self._new(channels, CACHED_FRAMES, rows, columns)
        return kept

    def _conv(self, states: "Held | _View", width: int | None = None, kernel: tuple[int, int, int] = (3, 3, 3),
              cached: Held | None = None) -> Held:
        _, channels, frames, rows, columns = states.shape
        joined = None
        if cached is not None:
            joined = self._new(channels, cached.shape[2] + frames, rows, columns)
        padded = self._new(channels, frames + kernel[0] - 1, rows + kernel[1] - 1, columns + kernel[2] - 1)
        del joined
        out = self._new(width or channels, frames, rows, columns)
        del padded
        return out

    def _new(self, *shape: int) -> Held:
        return self.ledger.new(self.batch, *shape, itemsize=self.itemsize)

    def _take_cache(self) -> int:
        self.next_cache += 1
        while len(self.caches) < self.next_cache:
            self.caches.append(None)
        return self.next_cache - 1

    def _clear(self) -> None:
        self.caches, self.next_cache = [], 0


class _View:
    """A part of a tensor that is held by another name."""

    def __init__(self, *shape: int) -> None:
        self.shape = shape
