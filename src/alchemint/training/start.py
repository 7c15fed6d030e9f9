"""Where a run begins: random weights, an exported model, or a plain Wan whose new modules are yet to be trained."""

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase, UMT5Config, UMT5EncoderModel

from alchemint.model.transformer import AlchemintTransformer3DModel
from alchemint.training.checkpoint import load_tensors
from alchemint.training.ranks import Ranks
from alchemint.training.recipe import TransformerRecipe
from alchemint.training.sharding import fill
from alchemint.training.tokenizer import load_or_train
from alchemint.wan import hub

WAN_PROMPT_TOKENS, WAN_EVENT_TOKENS = 512, 128

EXPERT_FOLDERS = {None: "transformer", "high": "transformer", "low": "transformer_2"}


@dataclass
class Start:
    """The parts of a model as they are before training.

    `text_encoder` is None until a frozen one is needed (`load_text_encoder`). `weights` is the folder that still has
    to be read into a transformer on the meta device, which is how sharded runs begin.
    """

    transformer: AlchemintTransformer3DModel
    tokenizer: PreTrainedTokenizerBase
    text_encoder: UMT5EncoderModel | None
    folder: Path | None
    vae: Path
    max_prompt_tokens: int
    max_event_tokens: int
    weights: Path | None = None
    timestep_range: tuple[float, float] = (0.0, 1.0)

    def load_text_encoder(self) -> UMT5EncoderModel:
        """Return the text encoder; a frozen one is read from its folder, in bfloat16, when it is first asked for."""
        if self.text_encoder is None:
            assert self.folder is not None
            self.text_encoder = frozen_text_encoder(self.folder)
        return self.text_encoder


def begin(recipe: TransformerRecipe, ranks: Ranks, texts: Callable[[], Iterable[str]]) -> Start:
    """Return the parts that a recipe starts from. `texts` are what a tokenizer of its own is trained on.

    Raises ValueError where a folder does not hold what the recipe says.
    """
    torch.manual_seed(recipe.seed)
    if recipe.base is not None:
        return _from_wan(recipe, find_folder(recipe.base), ranks)
    return _from_export(recipe, recipe.init_from) if recipe.init_from is not None else _from_scratch(
        recipe, ranks, texts)


def frozen_text_encoder(folder: Path) -> UMT5EncoderModel:
    """Return the text encoder of a pipeline folder, in bfloat16, not to be trained."""
    loaded: Any = UMT5EncoderModel.from_pretrained(folder / "text_encoder", dtype=torch.bfloat16)
    encoder: UMT5EncoderModel = loaded.eval().requires_grad_(False)
    return encoder


def find_folder(name: str) -> Path:
    """Return the folder of a pipeline, fetched from the hub when `name` is no folder."""
    if Path(name).is_dir():
        return Path(name)
    return hub.snapshot("base", name, ignore_patterns=["*.mp4", "*.gif", "*.png", "*.jpg"])


def read_weights(transformer: AlchemintTransformer3DModel, folder: Path, ranks: Ranks) -> None:
    """Read a plain Wan's weights into a transformer in shards, each process its part."""
    new = tuple(f"{name}." for name in transformer.new_module_names())
    load_tensors(folder, {name.replace(".base_layer.", "."): parameter.detach()
                          for name, parameter in transformer.named_parameters()
                          if not name.startswith(new) and ".lora_" not in name}, ranks)


def draw_new(transformer: AlchemintTransformer3DModel, seed: int) -> None:
    """Draw the first weights of what a plain Wan does not have, the same however they are divided."""
    with torch.random.fork_rng(devices=[]):
        twin = AlchemintTransformer3DModel(**{**plain_config(transformer.config), "num_layers": 1})
        for number, name in enumerate(transformer.new_module_names()):
            torch.manual_seed(seed * 1_000_003 + number)
            twin.initialise_new_modules()
            fresh = twin.get_submodule(re.sub(r"^blocks\.\d+", "blocks.0", name))
            for target, source in zip(transformer.get_submodule(name).parameters(), fresh.parameters(), strict=True):
                fill(target, source.detach())


def _from_wan(recipe: TransformerRecipe, folder: Path, ranks: Ranks) -> Start:
    index = read_index(folder)
    weights = folder / EXPERT_FOLDERS[recipe.expert]
    boundary = index.get("boundary_ratio")
    if boundary is None and recipe.expert is not None:
        raise ValueError(f"{folder} has no experts; leave out `expert`")
    if boundary is not None and recipe.expert is None:
        raise ValueError(f"{folder} has two experts; say which is trained: expert: high or expert: low")
    if not (weights / "config.json").is_file():
        raise ValueError(f"{folder}: there is no {weights.name}; give a Wan pipeline in diffusers' layout")
    sides: dict[str | None, Any] = {"high": (boundary, 1.0), "low": (0.0, boundary), None: (0.0, 1.0)}
    if ranks.is_sharded:
        config = plain_config(WanTransformer3DModel.load_config(weights))
        with torch.device("meta"):
            transformer = AlchemintTransformer3DModel(**{**config, **recipe.model})
    else:
        transformer = AlchemintTransformer3DModel.from_wan(weights, **recipe.model)
    return Start(transformer, AutoTokenizer.from_pretrained(folder / "tokenizer"), None, folder,
                 recipe.vae or folder / "vae", WAN_PROMPT_TOKENS, WAN_EVENT_TOKENS,
                 weights if ranks.is_sharded else None, sides[recipe.expert])


def _from_export(recipe: TransformerRecipe, folder: Path) -> Start:
    index = read_index(folder)
    loaded: Any = AlchemintTransformer3DModel.from_pretrained(folder / "transformer")
    transformer = loaded
    if recipe.model:
        transformer = AlchemintTransformer3DModel(**{**plain_config(loaded.config), **recipe.model})
        transformer.load_state_dict(loaded.state_dict())
    start = Start(transformer, AutoTokenizer.from_pretrained(folder / "tokenizer"), None, folder,
                  recipe.vae or folder / "vae", index.get("max_prompt_tokens", WAN_PROMPT_TOKENS),
                  index.get("max_event_tokens", WAN_EVENT_TOKENS))
    if recipe.text_encoder is not None:
        encoder: Any = UMT5EncoderModel.from_pretrained(folder / "text_encoder")
        start.text_encoder = encoder
        start.max_prompt_tokens = recipe.text_encoder.max_prompt_tokens
        start.max_event_tokens = recipe.text_encoder.max_event_tokens
    return start


def _from_scratch(recipe: TransformerRecipe, ranks: Ranks, texts: Callable[[], Iterable[str]]) -> Start:
    options = recipe.text_encoder
    assert options is not None and recipe.vae is not None
    tokenizer = load_or_train(recipe.output / "tokenizer", texts(), options.vocab_size, ranks)
    text_encoder = UMT5EncoderModel(UMT5Config(
        vocab_size=len(tokenizer), d_model=options.d_model, d_kv=options.d_model // options.num_heads,
        d_ff=options.d_ff, num_layers=options.num_layers, num_heads=options.num_heads, dropout_rate=0.0,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id))
    transformer = AlchemintTransformer3DModel(text_dim=options.d_model, **recipe.model)
    nn.init.zeros_(transformer.proj_out.weight)
    nn.init.zeros_(transformer.proj_out.bias)
    return Start(transformer, tokenizer, text_encoder, None, recipe.vae, options.max_prompt_tokens,
                 options.max_event_tokens)


def read_index(folder: Path) -> dict[str, Any]:
    """Return the model_index.json of a pipeline folder; ValueError when there is none."""
    try:
        index: dict[str, Any] = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{folder}: there is no model_index.json; give a pipeline folder in diffusers' "
                         "layout") from None
    return index


def plain_config(config: Any) -> dict[str, Any]:
    """Return a diffusers config as the arguments that make its model."""
    return {name: value for name, value in config.items() if not name.startswith("_")}
