"""What all tests share: tiny models of the real classes. Fixtures import heavy libraries where they need them."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

# As the command line does (see cli/main.py); torch reads it when it is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Tensors are small here: a second thread makes them slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan
    from transformers import PreTrainedTokenizerFast, UMT5EncoderModel

    from alchemint.model.transformer import AlchemintTransformer3DModel

TEXT_DIM = 16
LATENT_CHANNELS = 4
TEXTS = ["A fox trots across the green meadow.", "a red balloon drifts down beside the fox", "a duck and a robot wait"]


@pytest.fixture(scope="session")
def wan_sizes() -> dict[str, Any]:
    """The arguments of a tiny Wan transformer: 2 layers of 48 channels."""
    return {"num_attention_heads": 2, "attention_head_dim": 24, "in_channels": LATENT_CHANNELS,
            "out_channels": LATENT_CHANNELS, "text_dim": TEXT_DIM, "freq_dim": 32, "ffn_dim": 64, "num_layers": 2}


@pytest.fixture(scope="session")
def new_transformer(wan_sizes: dict[str, Any]) -> Callable[..., AlchemintTransformer3DModel]:
    """A function that builds a tiny transformer, the same each time, in which everything has an effect.

    The event branch, which begins at zero, is drawn at random, too; word tags and index embeddings are made larger.
    """
    import torch

    from alchemint.model.transformer import AlchemintTransformer3DModel

    def build(seed: int = 0, **options: Any) -> AlchemintTransformer3DModel:
        torch.manual_seed(seed)
        model = AlchemintTransformer3DModel(**{**wan_sizes, "num_word_tokens": 4, **options}).eval()
        torch.nn.init.normal_(model.subject_index.weight, std=0.5)
        for block in model.blocks:
            if block.event_attn is not None:
                torch.nn.init.normal_(block.event_attn.to_out[0].weight, std=0.2)
        return model

    return build


@pytest.fixture(scope="session")
def vae() -> AutoencoderKLWan:
    """A tiny video VAE: pixels to an eighth of the size, four frames to one; its latents are not yet normal."""
    import torch
    from diffusers import AutoencoderKLWan

    torch.manual_seed(0)
    return AutoencoderKLWan(
        base_dim=8, decoder_base_dim=8, z_dim=LATENT_CHANNELS, dim_mult=[1, 1, 1], num_res_blocks=1,
        temperal_downsample=[True, True], is_residual=True, in_channels=12, out_channels=12, patch_size=2,
        scale_factor_spatial=8, latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[0.5, 0.25, 1.5, 1.0]).eval()


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of few words."""
    from alchemint.training.tokenizer import train_tokenizer

    return train_tokenizer(TEXTS, 400)


@pytest.fixture(scope="session")
def text_encoder(tokenizer: PreTrainedTokenizerFast) -> UMT5EncoderModel:
    """A tiny text encoder with random weights."""
    import torch
    from transformers import UMT5Config, UMT5EncoderModel

    torch.manual_seed(0)
    return UMT5EncoderModel(UMT5Config(
        vocab_size=len(tokenizer), d_model=TEXT_DIM, d_kv=8, d_ff=32, num_layers=1, num_heads=2, dropout_rate=0.0,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id)).eval()


@pytest.fixture(scope="session")
def make_wan() -> ModuleType:
    """scripts/make_wan.py as a module."""
    return importlib.import_module("scripts.make_wan")


@pytest.fixture(scope="session")
def folder_of(make_wan: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function that gives the folder of a geometry of scripts/make_wan.py, a plain Wan pipeline, written once."""
    root = tmp_path_factory.mktemp("wan")

    def folder(geometry: str, dtype: str = "float32", layout: str = "diffusers") -> Path:
        path = root / layout / dtype / geometry
        if not path.exists():
            make_wan.make(geometry, path, dtype=make_wan.DTYPES[dtype], layout=layout)
        return path

    return folder


@pytest.fixture(scope="session")
def source() -> Callable[[int, int | None], Any]:
    """Small toyworld clips, each rendered once: 32 x 32 pixels, 13 frames at 6 frames per second."""
    return _clips("train")


@pytest.fixture(scope="session")
def heldout() -> Callable[[int, int | None], Any]:
    """The same of subjects that `source` does not have."""
    return _clips("heldout")


def _clips(split: str) -> Callable[[int, int | None], Any]:
    from alchemint.toyworld import WorldConfig, render_clip

    config = WorldConfig(width=32, height=32, num_frames=13, fps=6.0)
    return cache(lambda index, num_subjects: render_clip(split, index, config, num_subjects))
