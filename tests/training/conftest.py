"""Recipes of runs that last a second, and their objectives."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan
from transformers import PreTrainedTokenizerFast

from alchemint.training import vae as training_vae
from alchemint.training.ranks import ALONE
from alchemint.training.recipe import (
    EncodedClips,
    Optimizer,
    Run,
    TextEncoder,
    TransformerRecipe,
    VaeRecipe,
    World,
)
from alchemint.training.transformer import TransformerObjective
from alchemint.training.vae import VaeObjective

Source = Callable[[int, int | None], Any]
NewRecipe = Callable[..., VaeRecipe | TransformerRecipe]

WORLD = World(width=32, height=32, num_frames=13, fps=6.0)


def _parts(run: dict[str, Any], optimizer: dict[str, Any]) -> dict[str, Any]:
    """The parts that both kinds of recipe have: six steps of two clips, warm-up over two, decay over three."""
    return {"optimizer": Optimizer(**{"lr": 2e-3, "warmup_steps": 2, "decay_share": 0.5, **optimizer}),
            "run": Run(**{"steps": 6, "batch_size": 2, "log_every": 1, "num_workers": 0, "device": "cpu", **run})}


@pytest.fixture
def vae_recipe(tmp_path: Path, vae: AutoencoderKLWan) -> Callable[..., VaeRecipe]:
    """A function that makes a recipe of a tiny VAE; `run` and `optimizer` change those sections."""
    sizes = {name: value for name, value in vae.config.items() if not name.startswith(("_", "latents_"))}
    model = {**sizes, "latents_mean": [0.0] * 4, "latents_std": [1.0] * 4}

    def make(run: dict[str, Any] | None = None, optimizer: dict[str, Any] | None = None, **values: Any) -> VaeRecipe:
        return VaeRecipe(**{"kind": "vae", "output": tmp_path / "vae-run", "world": WORLD, "model": model,
                            "window_lengths": (5,), **_parts(run or {}, optimizer or {}), **values})

    return make


@pytest.fixture
def transformer_recipe(
    tmp_path: Path, vae: AutoencoderKLWan, tokenizer: PreTrainedTokenizerFast, wan_sizes: dict[str, Any]
) -> Callable[..., TransformerRecipe]:
    """A function that makes a recipe of a tiny transformer, with a VAE and a tokenizer in place."""
    vae.save_pretrained(tmp_path / "vae")
    model = {**wan_sizes, "num_word_tokens": 4, "rope_theta": 100.0}
    del model["text_dim"]
    parts = {"world": WORLD, "vae": tmp_path / "vae", "model": model,
             "text_encoder": TextEncoder(d_model=16, num_layers=1, num_heads=2, d_ff=32, max_prompt_tokens=12,
                                         max_event_tokens=6),
             "clips": EncodedClips(num_groups=3, uses=2, subject_shares=(0.2, 0.4, 0.4), event_share=0.5)}

    def make(
        run: dict[str, Any] | None = None, optimizer: dict[str, Any] | None = None, **values: Any
    ) -> TransformerRecipe:
        recipe = TransformerRecipe(**{"kind": "transformer", "output": tmp_path / "transformer-run", **parts,
                                      **_parts(run or {}, optimizer or {}), **values})
        # A tokenizer of its own would take a look at thousands of clips.
        tokenizer.save_pretrained(recipe.output / "tokenizer")
        return recipe

    return make


@pytest.fixture
def wan_recipe(tmp_path: Path, folder_of: Callable[..., Path]) -> Callable[..., TransformerRecipe]:
    """A function that makes a recipe that starts from a tiny Wan of random weights, on clips of the toyworld."""

    def make(geometry: str = "tiny", dtype: str = "float32", run: dict[str, Any] | None = None,
             optimizer: dict[str, Any] | None = None, **values: Any) -> TransformerRecipe:
        parts = {"base": str(folder_of(geometry, dtype)), "world": WORLD, "model": {"num_word_tokens": 4},
                 "clips": EncodedClips(num_groups=3, uses=2, subject_shares=(0.2, 0.4, 0.4), event_share=0.5)}
        return TransformerRecipe(**{"kind": "transformer", "output": tmp_path / "wan-run", **parts,
                                    **_parts(run or {}, optimizer or {}), **values})

    return make


@pytest.fixture(autouse=True)
def quick_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the export of a VAE look at few clips."""
    monkeypatch.setattr(training_vae, "_STATISTICS_CLIPS", 6)


@pytest.fixture
def new_objective(source: Source, heldout: Source) -> Callable[..., VaeObjective | TransformerObjective]:
    """A function that makes the objective of a recipe."""

    def make(recipe: VaeRecipe | TransformerRecipe) -> VaeObjective | TransformerObjective:
        if isinstance(recipe, VaeRecipe):
            return VaeObjective(recipe, source, heldout)
        objective = TransformerObjective(recipe, source, heldout)
        objective.place(torch.device("cpu"), ALONE, bfloat16=False)
        return objective

    return make
