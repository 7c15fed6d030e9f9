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
from alchemint.training.start import EXPERT_FOLDERS, Start, plain_config, read_index
from alchemint.wan.layout import EXPERTS_SHIFT, SHIFT

Tensor = torch.Tensor


def pipeline_of(start: Start, recipe: TransformerRecipe, other: AlchemintTransformer3DModel | None = None) -> Any:
    """Return a pipeline of the run's modules as they are, on the transformer's device.

    other: the second expert where the run trained one of two; without it the one does all timesteps.
    """
    from alchemint.pipeline import AlchemintPipeline

    device = start.transformer.device
    (width, height), num_frames, fps = _format(recipe)
    base = {} if recipe.base is None or start.folder is None else read_index(start.folder)
    transformers = [start.transformer] if other is None else [start.transformer, other]
    if recipe.expert == "low":
        transformers.reverse()
    return AlchemintPipeline(
        tokenizer=start.tokenizer, text_encoder=start.load_text_encoder().to(device),
        vae=AutoencoderKLWan.from_pretrained(start.vae).to(device), transformer=transformers[0],
        transformer_2=None if other is None else transformers[1],
        boundary_ratio=None if other is None else base["boundary_ratio"],
        expand_timesteps=base.get("expand_timesteps", False),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT if recipe.expert is None else EXPERTS_SHIFT),
        width=width, height=height, num_frames=num_frames, fps=fps, max_prompt_tokens=start.max_prompt_tokens,
        max_event_tokens=start.max_event_tokens, canvas_share=recipe.canvas_share, guidance=recipe.guidance)


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
             averaged: bool, dtype: torch.dtype, other: Path | None = None) -> None:
    """Write a pipeline folder of the checkpoint `found`: its weights or their averages, adapters merged into the base.

    The transformer is written in `dtype`; what was not trained, as the run had it. other: where one of two experts was
    trained, the pipeline folder with the other one; the base's own, untrained, when None.
    """
    if other is not None and recipe.expert is None:
        raise ValueError("this run trained no expert of two; leave the folder of the other one out")
    kind = "ema" if averaged else "weights"
    checkpoint.load_tensors(found, {f"{kind}/{name}": parameter.detach()
                                    for name, parameter in sharding.named_trained(modules)})
    if recipe.lora is not None:
        start.transformer.fuse_lora()
        start.transformer.unload_lora()
    for parameter in start.transformer.parameters():
        parameter.data = parameter.data.to(dtype)
    pipeline_of(start, recipe, _other_expert(start, recipe, other, dtype)).save_pretrained(folder)


def _other_expert(start: Start, recipe: TransformerRecipe, folder: Path | None,
                  dtype: torch.dtype) -> AlchemintTransformer3DModel | None:
    """Return the expert that the run did not train, of a pipeline folder or of the base; None where there is none."""
    if recipe.expert is None:
        return None
    name = EXPERT_FOLDERS["high" if recipe.expert == "low" else "low"]
    if folder is None:
        assert start.folder is not None
        return AlchemintTransformer3DModel.from_wan(start.folder / name, dtype=dtype, **recipe.model)
    if not (folder / name / "config.json").is_file():
        raise ValueError(f"{folder} has no {name}; name a model folder with two experts")
    loaded: AlchemintTransformer3DModel = AlchemintTransformer3DModel.from_pretrained(folder / name, dtype=dtype)
    return loaded


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
