"""Device and precision are the recipe's choice; weights stay float32."""

from collections.abc import Callable

import pytest
import torch

from alchemint.training.draws import Draws
from alchemint.training.precision import autocast, pick_device, uses_bfloat16
from alchemint.training.recipe import Run, VaeRecipe
from alchemint.training.vae import VaeObjective


def new_run(precision: str, device: str = "cpu") -> Run:
    return Run.model_validate({"steps": 1, "batch_size": 1, "precision": precision, "device": device})


def test_a_device_that_is_named_is_taken() -> None:
    assert pick_device(new_run("auto", "cpu")) == torch.device("cpu")
    assert pick_device(new_run("auto", "auto")).type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize(("precision", "on_cpu", "on_gpu"), [
    ("auto", False, True), ("float32", False, False), ("bfloat16", True, True)])
def test_bfloat16_is_for_gpus_unless_it_is_asked_for(precision: str, on_cpu: bool, on_gpu: bool) -> None:
    run = new_run(precision)
    assert uses_bfloat16(torch.device("cpu"), run) == on_cpu
    assert uses_bfloat16(torch.device("cuda"), run) == on_gpu
    with autocast(torch.device("cpu"), run):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == (torch.bfloat16 if on_cpu else torch.float32)


def test_half_precision_trains_float32_weights_nearly_alike(
    vae_recipe: Callable[..., VaeRecipe], new_objective: Callable[[VaeRecipe], VaeObjective]
) -> None:
    losses, gradients = [], []
    for precision in ("float32", "bfloat16"):
        recipe = vae_recipe(run={"precision": precision})
        objective = new_objective(recipe)
        with autocast(torch.device("cpu"), recipe.run):
            loss, _ = objective.loss(objective.batches(1, (0, 1))[0], Draws(0, 0))
        loss.backward()
        losses.append(loss.item())
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in objective.vae.parameters()]))
    assert gradients[1].dtype == torch.float32
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert torch.cosine_similarity(gradients[0], gradients[1], dim=0) > 0.99
