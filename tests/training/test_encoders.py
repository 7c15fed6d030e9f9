"""What a cache is made by is what a run starts from: found without weights, and by the run itself."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from alchemint.training import start
from alchemint.training.encoders import find_encoders
from alchemint.training.ranks import ALONE
from alchemint.training.recipe import Optimizer, Run, TransformerRecipe


@pytest.fixture
def wan(folder_of: Callable[..., Path]) -> Path:
    """A tiny plain Wan with random weights."""
    return folder_of("tiny")


def recipe(folder: Path, **values: Any) -> TransformerRecipe:
    return TransformerRecipe(kind="transformer", output=folder, optimizer=Optimizer(lr=1e-3),
                             run=Run(steps=1, batch_size=1), **values)


@pytest.mark.parametrize("other", [False, True])
def test_a_bases_encoders_are_those_of_the_run(wan: Path, vae: Any, tmp_path: Path, other: bool) -> None:
    vae.save_pretrained(tmp_path / "vae")
    wanted = recipe(tmp_path, base=str(wan), vae=tmp_path / "vae" if other else None)
    found = find_encoders(wanted)
    begun = start.begin(wanted, ALONE, list)
    assert (found.vae, found.max_prompt_tokens) == (begun.vae, 512)
    assert found.load_tokenizer()("a dog").input_ids == begun.tokenizer("a dog").input_ids
    weights, expected = (encoder.state_dict() for encoder in (found.load_text_encoder(), begun.load_text_encoder()))
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())


def test_a_trained_text_encoder_is_no_frozen_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"text_encoder: this recipe trains .*; set text_encoder=null, with init_from"):
        find_encoders(recipe(tmp_path, vae=tmp_path, text_encoder={}))


def test_a_folder_without_a_vae_is_named(wan: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{tmp_path}: there is no config.json"):
        find_encoders(recipe(tmp_path, base=str(wan), vae=tmp_path))
