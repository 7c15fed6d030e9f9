"""AdamW and Muon as one: who moves what, and how."""

from typing import Any

import pytest
import torch
from torch import nn

from alchemint.training.optimizers import Optimizers
from alchemint.training.recipe import Optimizer

OPTIONS = Optimizer(lr=1e-2, muon_lr=0.1, weight_decay=0.0)


def new_module() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(3, 8, 3), nn.Linear(6, 5), nn.LayerNorm(5))


def optimizers_of(module: nn.Sequential, options: Optimizer) -> Optimizers:
    return Optimizers([{"params": list(module.parameters()), "lr": options.lr}],
                      [parameter for parameter in module.parameters() if parameter.ndim > 1], options)


def with_gradients(module: nn.Module) -> list[torch.Tensor]:
    """Give each parameter a gradient whose directions differ in size; return the parameters' values."""
    for parameter in module.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
        parameter.grad[0] *= 20
    return [parameter.detach().clone() for parameter in module.parameters()]


@pytest.mark.parametrize("muon_lr", [None, 0.1])
def test_every_parameter_belongs_to_one_optimizer_and_moves(muon_lr: float | None) -> None:
    module = new_module()
    optimizers = optimizers_of(module, OPTIONS.model_copy(update={"muon_lr": muon_lr}))
    held = sum(len(group["params"]) for member in optimizers.members.values() for group in member.param_groups)
    assert held == len(list(module.parameters()))
    assert set(optimizers.members) == ({"adamw"} if muon_lr is None else {"adamw", "muon"})
    before = with_gradients(module)
    optimizers.step(1.0)
    for parameter, old in zip(module.parameters(), before, strict=True):
        assert not torch.equal(parameter, old)
        assert parameter.grad is None


def test_muon_moves_a_matrix_equally_in_all_directions() -> None:
    """Also a convolution's weight, seen as (out, in * kernel)."""
    module = new_module()
    optimizers = optimizers_of(module, OPTIONS)
    before = with_gradients(module)
    gradients = [parameter.grad.clone() for parameter in module.parameters() if parameter.grad is not None]
    optimizers.step(1.0)
    for parameter, old, gradient in zip(module.parameters(), before, gradients, strict=True):
        if parameter.ndim < 2:
            continue
        sizes = torch.linalg.svdvals((parameter - old).flatten(1).detach())
        assert sizes[0] < 2 * sizes[-1]
        spread = torch.linalg.svdvals(gradient.flatten(1))
        assert spread[0] > 10 * spread[-1]


def test_adamw_alone_is_torchs() -> None:
    ours, theirs = new_module(), new_module()
    options = Optimizer(lr=1e-2, weight_decay=0.1)
    optimizers = optimizers_of(ours, options)
    reference = torch.optim.AdamW(theirs.parameters(), lr=1e-2, weight_decay=0.1, betas=options.betas)
    for factor in (0.5, 1.0, 0.25):
        with_gradients(ours)
        with_gradients(theirs)
        optimizers.step(factor)
        for group in reference.param_groups:
            group["lr"] = 1e-2 * factor
        reference.step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-7)


def test_groups_keep_their_own_rates() -> None:
    module = new_module()
    groups: list[dict[str, Any]] = [{"params": list(module[0].parameters()), "lr": 1e-3},
                                    {"params": list(module[2].parameters()), "lr": 1e-1}]
    before = with_gradients(module)
    Optimizers(groups, [], Optimizer(lr=1e-3, weight_decay=0.0)).step(0.5)
    moved = [(parameter - old).abs().max().item() for parameter, old in zip(module.parameters(), before, strict=True)]
    assert moved == pytest.approx([5e-4, 5e-4, 0, 0, 5e-2, 5e-2], rel=1e-2)
