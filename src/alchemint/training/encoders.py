"""What a recipe says of clips on disk and of the encoders that stay as they are, found without loading any weights.

From this `alchemint precompute` makes a cache, and by this `alchemint train` knows it again.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from transformers import AutoTokenizer, PreTrainedTokenizerBase, UMT5EncoderModel

from alchemint.data import latent_cache
from alchemint.data.record_clips import ClipFolder
from alchemint.model.latents import as_pixels, encode_video
from alchemint.training import start
from alchemint.training.recipe import TransformerRecipe

Tensor = torch.Tensor


@dataclass(frozen=True)
class FrozenEncoders:
    """Where a VAE, and a pipeline with a text encoder and its tokenizer, lie, and after how many tokens a text ends."""

    vae: Path
    pipeline: Path
    max_prompt_tokens: int

    def identity(self) -> dict[str, str]:
        """Return what tells these encoders from others, by which caches of their work are told apart."""
        return latent_cache.encoder_identity(self.vae, self.pipeline, self.max_prompt_tokens)

    def load_text_encoder(self) -> UMT5EncoderModel:
        """Return the text encoder, in bfloat16."""
        return start.frozen_text_encoder(self.pipeline)

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """Return the text encoder's tokenizer."""
        return AutoTokenizer.from_pretrained(self.pipeline / "tokenizer")


@dataclass
class LatentEncoder:
    """Encodes uint8 videos with the VAE in `folder`, on any device, and returns latents where the videos are.

    The VAE is loaded where it is first called, so that the encoder can be sent to the processes that load data.
    """

    folder: Path
    device: str
    bfloat16: bool
    _vae: AutoencoderKLWan | None = None

    @torch.no_grad()
    def __call__(self, videos: Tensor) -> Tensor:
        """Return the normalised latents (batch, C, T, H, W) of videos (batch, 3, frames, height, width) uint8."""
        if self._vae is None:
            self._vae = AutoencoderKLWan.from_pretrained(self.folder).eval().to(self.device)
        with torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.bfloat16):
            return encode_video(self._vae, as_pixels(videos.to(self.device))).to(videos.device)


def find_encoders(recipe: TransformerRecipe) -> FrozenEncoders:
    """Return the encoders of a recipe's base or of what it starts from; a base's are fetched where it has to be.

    Raises ValueError for a recipe that trains its text encoder, or whose folders hold no pipeline.
    """
    if recipe.text_encoder is not None:
        raise ValueError("text_encoder: this recipe trains a text encoder along, whose work can't be computed before; "
                         "set text_encoder=null, with init_from, to keep that of an exported pipeline as it is")
    if recipe.base is not None:
        folder, max_prompt_tokens = start.find_folder(recipe.base), start.WAN_PROMPT_TOKENS
    else:
        assert recipe.init_from is not None
        folder = recipe.init_from
        max_prompt_tokens = start.read_index(folder).get("max_prompt_tokens", start.WAN_PROMPT_TOKENS)
    vae = recipe.vae or folder / "vae"
    if not (vae / "config.json").is_file():
        raise ValueError(f"{vae}: there is no config.json; give the folder of a VAE in diffusers' layout")
    return FrozenEncoders(vae, folder, max_prompt_tokens)


def open_clips(recipe: TransformerRecipe, vae: Path) -> ClipFolder:
    """Return the clips on disk that a recipe names, planned for the latents of a VAE.

    Raises ValueError for options that no sample can be made by, and when no clip fits them.
    """
    assert recipe.data is not None
    stride = AutoencoderKLWan.load_config(vae)["scale_factor_spatial"]
    return ClipFolder(recipe.data.clips, recipe.data.sample_options(recipe.canvas_share, recipe.subject_weight > 0,
                                                                    stride))
