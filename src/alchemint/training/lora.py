"""Low-rank adapters (peft, through diffusers) on a frozen base; the new modules beside them are trained whole.

Files: `pytorch_lora_weights.safetensors` as diffusers writes and reads it, so that it loads in its own Wan pipeline,
and `new_modules.safetensors` for what a plain Wan does not have.
"""

from pathlib import Path

import torch
from diffusers import WanPipeline
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import nn

from alchemint import media
from alchemint.model.transformer import AlchemintTransformer3DModel
from alchemint.training.recipe import Lora
from alchemint.training.sharding import fill

Tensor = torch.Tensor

ADAPTER = "default"
LORA_FILE, NEW_MODULES_FILE = "pytorch_lora_weights.safetensors", "new_modules.safetensors"


def add_lora(transformer: AlchemintTransformer3DModel, options: Lora) -> None:
    """Freeze the base and add adapters to its layers; new modules stay trainable.

    Raises ValueError when a target names no layer.
    """
    new = tuple(f"{name}." for name in transformer.new_module_names())
    layers = [name for name, module in transformer.named_modules()
              if isinstance(module, nn.Linear) and name.startswith("blocks.") and not name.startswith(new)]
    for target in options.targets:
        if not any(name.endswith(f".{target}") for name in layers):
            raise ValueError(f'lora.targets: no layer of the blocks is named "{target}"; they are '
                             + ", ".join(sorted({name.split(".", 3)[-1] for name in layers})))
    transformer.add_adapter(LoraConfig(
        r=options.rank, lora_alpha=options.alpha or options.rank,
        target_modules=[name for name in layers if name.endswith(tuple(f".{target}" for target in options.targets))]))
    for name in transformer.new_module_names():
        transformer.get_submodule(name).requires_grad_(True)


def initialise_lora(transformer: AlchemintTransformer3DModel, generator: torch.Generator) -> None:
    """Draw the adapters' first weights, as peft does: A uniform, B zero; whole or in shards."""
    for module in transformer.modules():
        if isinstance(module, LoraLayer):
            down, up = module.lora_A[ADAPTER].weight, module.lora_B[ADAPTER].weight
            bound = down.shape[1] ** -0.5                          # kaiming_uniform_ with a = sqrt(5)
            fill(down, (torch.rand(down.shape, generator=generator) * 2 - 1) * bound)
            fill(up, torch.zeros(up.shape))


def freeze_in_bfloat16(transformer: AlchemintTransformer3DModel) -> None:
    """Keep the frozen matrices of the blocks in bfloat16, which is how they are multiplied anyway."""
    for name, module in transformer.blocks.named_modules():
        if isinstance(module, nn.Linear) and not module.weight.requires_grad and "lora" not in name:
            module.to(torch.bfloat16)


def save_lora(weights: dict[str, Tensor], transformer: AlchemintTransformer3DModel, folder: Path) -> None:
    """Write the adapters and the new modules of `weights`, the trained parameters by their names in `transformer`.

    The adapters' scale is multiplied in: who reads the file, diffusers among them, takes alpha for the rank.
    """
    config = transformer.peft_config[ADAPTER]
    scale = config.lora_alpha / config.r
    adapters = get_peft_model_state_dict(transformer, state_dict={
        name: tensor * scale if ".lora_B." in name else tensor for name, tensor in weights.items() if ".lora_" in name})
    WanPipeline.save_lora_weights(folder, transformer_lora_layers=adapters)
    new = {name: tensor.contiguous() for name, tensor in weights.items() if ".lora_" not in name}
    with media.atomic_path(folder / NEW_MODULES_FILE) as partial:
        save_file(new, partial)
