"""Several processes on one video, on CPU: what they make together is what one makes, whatever the lengths are."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed

from alchemint.model.conditions import Events, References
from alchemint.model.context_parallel import ContextParallel
from alchemint.model.transformer import AlchemintTransformer3DModel
from tests.training.processes import run_in_all

SIZES: dict[str, Any] = {
    "num_attention_heads": 2, "attention_head_dim": 24, "in_channels": 4, "out_channels": 4, "text_dim": 16,
    "freq_dim": 32, "ffn_dim": 64, "num_layers": 2, "num_word_tokens": 3}
GRIDS = {"all divides": (2, 8, 8, 2), "nothing divides": (3, 6, 10, 3), "one reference": (3, 6, 6, 1),
         "no reference": (3, 6, 6, 0)}
"""Latents T, H, W and the number of references; at 3 word tokens each."""


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def inputs_of(T: int, H: int, W: int, num_references: int, per_token: bool) -> dict[str, Any]:
    """What the model takes; where each token has a timestep of its own, references are gated, too."""
    spans = torch.tensor([[0.0, 1.0], [0.5, 2.0], [1.0, 2.0]])[:num_references].expand(2, -1, -1)
    timestep = torch.tensor([900.0, 250.0])
    return {
        "hidden_states": random(2, 4, T, H, W, seed=0), "encoder_hidden_states": random(2, 7, 16, seed=1),
        "timestep": timestep.view(2, 1) * torch.rand(1, T * H * W // 4) if per_token else timestep,
        "references": References(
            random(2, num_references, 4, H, W, seed=2), spans, torch.arange(num_references).expand(2, -1),
            random(2, num_references, 3, 16, seed=3), torch.ones(2, num_references, 3).bool()),
        "events": Events(random(2, 2, 5, 16, seed=4), torch.ones(2, 2, 5).bool(),
                         torch.tensor([[[0.0, 1.0], [1.2, 2.0]]]).expand(2, -1, -1)),
        "reference_gate": 3.0 if per_token else None}


def compare(folder: Path) -> None:
    """In each process: outputs and gradients, together and alone."""
    worst: dict[str, float] = {}
    for name, grid in GRIDS.items():
        for reference_attention in ("full", "one_way"):
            for per_token in (False, True):
                torch.manual_seed(0)
                model = AlchemintTransformer3DModel(**SIZES, reference_attention=reference_attention)
                inputs = inputs_of(*grid, per_token)
                alone = model(**inputs).sample
                expected = torch.autograd.grad(alone.square().mean(), model.blocks[0].attn1.to_k.weight)[0]
                model.parallelise(ContextParallel(distributed.group.WORLD))
                together = model(**inputs).sample
                (gradient,) = torch.autograd.grad(together.square().mean(), model.blocks[0].attn1.to_k.weight)
                distributed.all_reduce(gradient)
                case = f"{name}, {reference_attention}, {'a timestep a token' if per_token else 'one timestep'}"
                worst[case] = max((together - alone).abs().max().item(),
                                  ((gradient / 2 - expected).norm() / expected.norm()).item())
                if reference_attention == "one_way" and grid[3]:
                    with torch.no_grad():
                        encoded = model.encode_references(inputs["hidden_states"], inputs["encoder_hidden_states"],
                                                          inputs["references"])
                        kept = model(**{**inputs, "references": encoded}).sample
                    worst[f"{case}, encoded"] = (kept - alone).abs().max().item()
    torch.save(worst, folder / f"{distributed.get_rank()}.pt")


@pytest.mark.slow
def test_two_processes_make_what_one_makes(tmp_path: Path) -> None:
    run_in_all(compare, tmp_path)
    for rank in range(2):
        worst = torch.load(tmp_path / f"{rank}.pt")
        assert len(worst) == 22
        assert {case: error for case, error in worst.items() if not error < 1e-5} == {}


def test_heads_must_divide() -> None:
    model = AlchemintTransformer3DModel(**{**SIZES, "num_attention_heads": 3})

    class OfTwo:
        size = 2

    with pytest.raises(ValueError, match="3 attention heads can't be shared by 2 processes"):
        model.parallelise(OfTwo())  # type: ignore[arg-type]
