"""From what a run trained to a folder that `generate --model` takes.

Without a base a run writes the whole pipeline. With one it writes only what is not the base's own: the transformer, or
`lora/` with adapters and new modules; `assemble` puts a pipeline together of that and the base.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler
from torch import nn
from transformers import UMT5EncoderModel

from alchemint.model.transformer import AlchemintTransformer3DModel
from alchemint.training import checkpoint, lora, sharding
from alchemint.training.recipe import TransformerRecipe
from alchemint.training.start import Start, plain_config

SHIFT = 5.66

Tensor = torch.Tensor


def pipeline_of(start: Start, recipe: TransformerRecipe) -> Any:
    """Return a pipeline of the run's modules as they are, on the transformer's device."""
    from alchemint.pipeline import AlchemintPipeline

    device = start.transformer.device
    (width, height), num_frames, fps = _format(recipe)
    return AlchemintPipeline(
        tokenizer=start.tokenizer, text_encoder=start.load_text_encoder().to(device),
        vae=AutoencoderKLWan.from_pretrained(start.vae).to(device), transformer=start.transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT), width=width, height=height, num_frames=num_frames,
        fps=fps, max_prompt_tokens=start.max_prompt_tokens, max_event_tokens=start.max_event_tokens,
        canvas_share=recipe.canvas_share, guidance=recipe.guidance)


def write_trained(start: Start, recipe: TransformerRecipe, weights: dict[str, Tensor], folder: Path) -> None:
    """Write what was trained. weights: the trained parameters, whole, named as `sharding.named_trained` has them."""
    transformer = _of("transformer", weights)
    if recipe.lora is not None:
        lora.save_lora(transformer, start.transformer, folder / "lora")
        return
    model = _whole(start.transformer, transformer)
    if recipe.base is not None:
        model.save_pretrained(folder / "transformer")
        return
    whole = replace(start, transformer=model)
    if recipe.text_encoder is not None:
        encoder = UMT5EncoderModel(start.load_text_encoder().config)
        encoder.load_state_dict(_of("text_encoder", weights), strict=False)     # shared weights bear one name here
        whole.text_encoder = encoder
    pipeline_of(whole, recipe).save_pretrained(folder)


def assemble(start: Start, recipe: TransformerRecipe, modules: dict[str, nn.Module], found: Path, folder: Path,
             averaged: bool, dtype: torch.dtype) -> None:
    """Write a pipeline folder of the checkpoint `found`: its weights or their averages, adapters merged into the base.

    The transformer is written in `dtype`; what was not trained, as the run had it.
    """
    kind = "ema" if averaged else "weights"
    checkpoint.load_tensors(found, {f"{kind}/{name}": parameter.detach()
                                    for name, parameter in sharding.named_trained(modules)})
    if recipe.lora is not None:
        start.transformer.fuse_lora()
        start.transformer.unload_lora()
    for parameter in start.transformer.parameters():
        parameter.data = parameter.data.to(dtype)
    pipeline_of(start, recipe).save_pretrained(folder)


def _whole(model: AlchemintTransformer3DModel, weights: dict[str, Tensor]) -> AlchemintTransformer3DModel:
    """Return a model like one that may be in shards, with whole weights, in this process alone."""
    with torch.device("meta"):
        whole = AlchemintTransformer3DModel(**plain_config(model.config))
    whole.load_state_dict(weights, assign=True)
    return whole


def _of(module: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(f"{module}."): tensor for name, tensor in weights.items()
            if name.startswith(f"{module}.")}


def _format(recipe: TransformerRecipe) -> tuple[tuple[int, int], int, float]:
    """Return (width, height), number of frames and frames a second of what the recipe's clips are."""
    if recipe.data is not None:
        return recipe.data.sizes[0], recipe.data.num_frames[0], recipe.data.fps
    return (recipe.world.width, recipe.world.height), recipe.world.num_frames, recipe.world.fps
