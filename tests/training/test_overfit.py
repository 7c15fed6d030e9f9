"""A batch learnt by heart, which takes knowing when: the interval encoding is what tells the time."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan

from alchemint.model.latents import as_pixels, encode_video
from alchemint.training.recipe import Optimizer, TransformerRecipe
from benchmarks import overfit

LEARNT, UNLEARNT = 0.2, 0.95
"""Shares of the loss of the best answer that does not depend on the interval."""


@pytest.mark.slow
def test_a_batch_that_differs_in_intervals_alone_is_learnt_by_those_who_see_them(
    transformer_recipe: Callable[..., TransformerRecipe], source: Callable[..., Any], vae: AutoencoderKLWan
) -> None:
    batch = overfit.turned_batch(source, torch.no_grad()(lambda videos: encode_video(vae, as_pixels(videos))), 3)
    assert len({tuple(span) for span in batch.spans.flatten(1).tolist()}) == 3
    assert len(set(batch.prompts)) == 1
    assert torch.equal(batch.reference_latents[0], batch.reference_latents[1])
    shares = {}
    for encoding in ("werope", "untimed"):
        recipe = transformer_recipe(optimizer={"lr": 1e-2, "muon_lr": 0.03})
        recipe = recipe.model_copy(update={"model": {**recipe.model, "interval_encoding": encoding},
                                           "optimizer": Optimizer(lr=5e-3, muon_lr=0.03)})
        shares[encoding] = overfit.curve(recipe, source, batch, 400)[-1] / overfit.floor(batch)
    assert shares["werope"] < LEARNT
    assert shares["untimed"] > UNLEARNT
