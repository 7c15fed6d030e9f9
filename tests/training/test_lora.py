"""Low-rank adapters: what is trained beside a frozen base, and files that plain Wan pipelines read."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import WanPipeline
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file

from alchemint.model.transformer import AlchemintTransformer3DModel
from alchemint.training import loop, lora
from alchemint.training.recipe import Lora, TransformerRecipe
from alchemint.training.sharding import named_trained
from alchemint.training.transformer import TransformerObjective

NewRecipe = Callable[..., TransformerRecipe]
NewObjective = Callable[[TransformerRecipe], TransformerObjective]


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Latents, timesteps and prompt embeddings of two videos for a tiny Wan."""
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(2, 16, 2, 4, 4, generator=generator), torch.tensor([900.0, 300.0]),
            torch.randn(2, 6, 32, generator=generator))


@pytest.mark.parametrize("alpha", [None, 12.0])
@torch.no_grad()
def test_adapters_load_in_wans_own_pipeline(
    wan_recipe: NewRecipe, new_objective: NewObjective, alpha: float | None
) -> None:
    """Without an average, so that what is exported is the last weights."""
    recipe = wan_recipe(lora=Lora(rank=4, alpha=alpha), run={"ema_decay": 0.0}, optimizer={"lr": 3e-2})
    objective = new_objective(recipe)
    with torch.enable_grad():
        loop.train(objective, recipe)
    pipeline = WanPipeline.from_pretrained(recipe.base)
    pipeline.set_progress_bar_config(disable=True)
    video: dict[str, Any] = {"prompt": "a fox", "height": 32, "width": 32, "num_frames": 5, "num_inference_steps": 2,
                             "max_sequence_length": 16, "output_type": "latent"}
    plain = pipeline(**video, generator=torch.Generator().manual_seed(0)).frames
    before = pipeline.transformer(*inputs()).sample

    pipeline.load_lora_weights(recipe.output / "export" / "lora")
    after = pipeline.transformer(*inputs()).sample
    assert (after - before).abs().max() > 1e-2
    assert torch.allclose(after, objective.transformer(*inputs()).sample, atol=1e-5)
    adapted = pipeline(**video, generator=torch.Generator().manual_seed(0)).frames
    assert (adapted - plain).abs().max() > 1e-2


def test_only_adapters_and_new_modules_are_trained(wan_recipe: NewRecipe, new_objective: NewObjective) -> None:
    recipe = wan_recipe(lora=Lora(rank=4), run={"steps": 3})
    objective = new_objective(recipe)
    first = {name: parameter.detach().clone() for name, parameter in named_trained(objective.modules)}
    loop.train(objective, recipe)
    base = load_file(f"{recipe.base}/transformer/diffusion_pytorch_model.safetensors")
    new = tuple(objective.transformer.new_module_names())
    trained = set()
    for name, parameter in objective.transformer.named_parameters():
        if ".lora_" in name or name.startswith(new):
            trained.add(name)
            # What is beside the event branch's output, which begins at zero, has its first gradient in the second step.
            assert not torch.equal(parameter, first[f"transformer.{name}"]), name
        else:
            assert torch.equal(parameter, base.pop(name.replace(".base_layer.", "."))), name
    assert base == {}
    assert {f"transformer.{name}" for name in trained} == first.keys()
    assert len([name for name in trained if ".lora_A." in name]) == 2 * (4 + 4 + 2)


def test_the_new_modules_have_a_file_of_their_own(wan_recipe: NewRecipe, new_objective: NewObjective) -> None:
    recipe = wan_recipe(lora=Lora(rank=4), run={"steps": 1})
    loop.train(new_objective(recipe), recipe)
    plain = AlchemintTransformer3DModel.from_wan(f"{recipe.base}/transformer", **recipe.model)
    expected = {f"{name}.{part}" for name in plain.new_module_names()
                for part, _ in plain.get_submodule(name).named_parameters()}
    saved = load_file(recipe.output / "export" / "lora" / lora.NEW_MODULES_FILE)
    assert saved.keys() == expected
    missing, unexpected = plain.load_state_dict(saved, strict=False)
    assert unexpected == []
    assert not set(missing) & expected
    adapters = load_file(recipe.output / "export" / "lora" / lora.LORA_FILE)
    assert all(name.startswith("transformer.blocks.") and ".lora_" in name for name in adapters)


@torch.no_grad()
def test_adapters_begin_as_peft_has_them(wan_recipe: NewRecipe, new_objective: NewObjective) -> None:
    """A uniform up to one over the root of what goes in, B zero: at first they change nothing."""
    recipe = wan_recipe(lora=Lora(rank=16))
    transformer = new_objective(recipe).transformer
    layers = [module for module in transformer.modules() if isinstance(module, LoraLayer)]
    for layer in layers:
        down, bound = layer.lora_A[lora.ADAPTER].weight, layer.in_features ** -0.5
        assert 0.95 * bound < down.abs().max() <= bound
        assert abs(down.mean()) < 0.1 * bound
        assert not layer.lora_B[lora.ADAPTER].weight.any()
    assert not torch.equal(layers[0].lora_A[lora.ADAPTER].weight, layers[1].lora_A[lora.ADAPTER].weight)
    base = AlchemintTransformer3DModel.from_wan(f"{recipe.base}/transformer", **recipe.model)
    assert torch.equal(transformer(*inputs()).sample, base(*inputs()).sample)


def test_targets_choose_layers(wan_recipe: NewRecipe, new_objective: NewObjective) -> None:
    objective = new_objective(wan_recipe(lora=Lora(rank=2, targets=("attn2.to_q", "ffn.net.2"))))
    adapted = {name for name, module in objective.transformer.named_modules() if isinstance(module, LoraLayer)}
    assert adapted == {f"blocks.{number}.{layer}" for number in range(2) for layer in ("attn2.to_q", "ffn.net.2")}


def test_a_target_that_is_no_layer_is_one_line(wan_recipe: NewRecipe, new_objective: NewObjective) -> None:
    with pytest.raises(ValueError, match=r'^lora.targets: no layer of the blocks is named "to_w"; they are .*to_q'):
        new_objective(wan_recipe(lora=Lora(rank=4, targets=("to_q", "to_w"))))


@pytest.mark.slow
def test_a_base_in_bfloat16_beside_adapters_draws_sheets(wan_recipe: NewRecipe, new_objective: NewObjective) -> None:
    recipe = wan_recipe(lora=Lora(rank=4), run={"steps": 1, "precision": "bfloat16", "sheet_every": 1})
    objective = new_objective(recipe)
    lora.freeze_in_bfloat16(objective.transformer)
    loop.train(objective, recipe)
    block = objective.transformer.blocks[0]
    assert block.attn1.to_q.base_layer.weight.dtype == torch.bfloat16
    assert all(parameter.dtype == torch.float32 for _, parameter in named_trained(objective.modules))
    assert (recipe.output / "sheets" / "step-00000001.png").is_file()
