"""What a video is going to be, from latents, a hundred times quicker than its VAE tells: a linear map stands for it.

    stride x stride pixels of a latent's place  =  W [that place's latent and its 8 neighbours', 1]

W is fitted once for each model, by ridge regression, to what the VAE itself makes of pictures drawn here: it encodes
and decodes them as videos of one frame. Edges come out softer, colours and shapes as they are. A later latent holds
several frames; the picture stands for all of them.

    T latent frames, C latent channels, h x w places
"""

from io import BytesIO
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from PIL import Image

from alchemint.model.latents import as_uint8, decode_video, encode_images
from alchemint.studio.film import TILE_HEIGHT, joined, moments
from alchemint.timeline import TEMPORAL_STRIDE

Tensor = torch.Tensor

MOST_TILES = 12

_NUM_PICTURES, _PLACES = 12, 16
_RIDGE = 0.1
_NUM_BLOBS = 6

_fitted: "WeakKeyDictionary[AutoencoderKLWan, LinearDecoder]" = WeakKeyDictionary()


class LinearDecoder:
    """Decodes latents by a linear map of each place's neighbourhood."""

    def __init__(self, kernel: Tensor, bias: Tensor, stride: int) -> None:
        """kernel: (3 stride stride, C, 3, 3). bias: (3 stride stride,). stride: pixels of a latent's side."""
        self._kernel = kernel
        self._bias = bias
        self._stride = stride

    @classmethod
    def of(cls, vae: AutoencoderKLWan, device: torch.device | str = "cpu") -> "LinearDecoder":
        """Return the decoder of a VAE that runs on `device`; it is fitted when it is first asked for."""
        if vae not in _fitted:
            _fitted[vae] = cls._fit(vae, device)
        return _fitted[vae]

    @classmethod
    @torch.no_grad()
    def _fit(cls, vae: AutoencoderKLWan, device: torch.device | str) -> "LinearDecoder":
        stride = vae.config.scale_factor_spatial
        places, pixels = [], []
        for pictures in _pictures(_PLACES * stride).split(4):
            latents = encode_images(vae, pictures.to(device))
            decoded = decode_video(vae, latents.unsqueeze(2))[:, :, 0].float().clamp(-1, 1)
            places.append(_neighbourhoods(latents).cpu().double())
            pixels.append(F.unfold(decoded, stride, stride=stride).transpose(1, 2).flatten(0, 1).cpu().double())
        given, wanted = torch.cat(places), torch.cat(pixels)
        ridge = _RIDGE * torch.eye(given.shape[1], dtype=given.dtype)
        weights = torch.linalg.solve(given.T @ given + ridge, given.T @ wanted).float()
        kernel = weights[:-1].T.unflatten(1, (-1, 3, 3)).contiguous()
        return cls(kernel, weights[-1].contiguous(), stride)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Return pictures (T, 3, height, width) in about -1..1 of normalised latents (T, C, h, w)."""
        kernel, bias = (part.to(latents.device) for part in (self._kernel, self._bias))
        patches = F.conv2d(F.pad(latents.float(), (1, 1, 1, 1), mode="replicate"), kernel, bias)
        return F.pixel_shuffle(patches, self._stride)


def preview(latents: Tensor, decoder: LinearDecoder) -> bytes:
    """Return a PNG strip of normalised latents (C, T, h, w), one tile after the other on the axis of the film strip.

    Tiles are at most 144 pixels high; small ones stay as they are, pixel by pixel.
    """
    count = latents.shape[1]
    num_frames = 1 + TEMPORAL_STRIDE * (count - 1)
    shown = [-(-frame // TEMPORAL_STRIDE) for frame in moments(num_frames, min(count, MOST_TILES))]
    pictures = as_uint8(decoder.decode(latents[:, shown].transpose(0, 1))).permute(0, 2, 3, 1).cpu().numpy()
    tiles = [Image.fromarray(picture) for picture in pictures]
    written = BytesIO()
    joined(tiles, TILE_HEIGHT).save(written, "PNG", compress_level=3)
    return written.getvalue()


def _neighbourhoods(latents: Tensor) -> Tensor:
    """Return (B h w, 9 C + 1), each place's latents with those around it, and 1."""
    around = F.unfold(F.pad(latents.float(), (1, 1, 1, 1), mode="replicate"), 3).transpose(1, 2).flatten(0, 1)
    return torch.cat([around, torch.ones_like(around[:, :1])], 1)


def _pictures(side: int) -> Tensor:
    """Return pictures (_NUM_PICTURES, 3, side, side) in -1..1, always the same: coloured clouds, coarse and fine, with
    ellipses of plain colours before them."""
    generator = torch.Generator().manual_seed(0)
    clouds = torch.zeros(_NUM_PICTURES, 3, side, side)
    size = 2
    while size <= side // 2:
        noise = torch.randn(_NUM_PICTURES, 3, size, size, generator=generator)
        clouds += F.interpolate(noise, (side, side), mode="bicubic") / size
        size *= 2
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    for picture in clouds:
        for _ in range(_NUM_BLOBS):
            colour = 2 * torch.rand(3, 1, generator=generator) - 1
            row, column, height, width = (side * torch.rand(4, generator=generator)).tolist()
            inside = ((rows - row) / (height / 4 + 3)) ** 2 + ((columns - column) / (width / 4 + 3)) ** 2 < 1
            picture[:, inside] = colour + 0.1 * picture[:, inside]
    return clouds.clamp(-1, 1)
