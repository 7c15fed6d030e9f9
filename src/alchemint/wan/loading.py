"""The parts of a plain Wan as an AlchemintPipeline takes them, with new modules where it has none.

Every tensor is read from its file straight into the dtype asked for, and must be one that the model expects.
"""

import inspect
from collections.abc import Callable, Iterable
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanTransformer3DModel
from diffusers.utils import logging
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase, UMT5Config, UMT5EncoderModel

from alchemint.model.transformer import AlchemintTransformer3DModel
from alchemint.wan import hub, names, sizes
from alchemint.wan.layout import NEEDED, SHIFT, Layout, Part, check_channels, find
from alchemint.wan.tensors import Stored, find_file, open_tensors

logger = logging.get_logger(__name__)

Config = dict[str, Any]

_OTHER_WEIGHTS = {
    "vace_blocks.": "a Wan VACE", "motion_encoder.": "a Wan Animate", "face_adapter.": "a Wan Animate",
    "img_emb.": "an image-to-video Wan", "k_img.": "an image-to-video Wan", "lora_": "adapters (LoRA) to a transformer",
    "scale_weight": "a quantised Wan", "scaled_fp8": "a quantised Wan", "diff_b": "adapters (LoRA) to a transformer",
    "decoder.middle.": "a VAE", "token_embedding.": "a text encoder",
}


def load_parts(source: str | PathLike[str], base: str | PathLike[str] | None, dtype: torch.dtype, shift: float | None,
               options: Config) -> Config:
    """Return the arguments of an AlchemintPipeline of a Wan in `source`, the rest of which is `base`.

    Each is a folder, a file, or a name on the hub; with a base the source must be here. The VAE is float32. Warns,
    once, where nothing of timed control is trained. Raises ValueError for what is missing, broken or of another kind.
    """
    layout = find(hub.find(str(source))) if base is None else find(
        hub.find_here(str(source)), hub.find(str(base), is_base=True))
    is_trained = all(part.is_trained for part in layout.transformers)
    if any(part.is_trained for part in layout.transformers) and options:
        raise ValueError(f"{source} is a trained transformer, whose {next(iter(options))} is fixed; leave it out")
    transformers = [load_transformer(part, dtype, {**layout.options, **options}) for part in layout.transformers]
    if layout.is_phantom:  # it knows its references by their order alone
        nn.init.zeros_(transformers[0].subject_index.weight)
    if shift is None:  # trained ones are sampled as training does, plain ones as their files say
        shift = SHIFT if is_trained and layout.boundary_ratio is None else layout.sampling_shift
    parts = {
        "tokenizer": load_tokenizer(layout.tokenizer), "text_encoder": load_text_encoder(layout, dtype),
        "vae": load_vae(layout), "scheduler": FlowMatchEulerDiscreteScheduler(shift=shift),
        **dict(zip(("transformer", "transformer_2"), transformers, strict=False)), **layout.pipeline_config,
        "guidance": layout.guidance, "boundary_ratio": layout.boundary_ratio,
        "expand_timesteps": layout.expand_timesteps,
    }
    if not is_trained:
        untrained = ("it takes references, but their times are untrained" if layout.is_phantom else
                     "its references, their times and events are untrained, drawn at random")
        way = "train them (alchemint train, with this as base)"
        if layout.released or base is not None:
            way = ("write AlchemintPipeline.from_wan(...).save_pretrained(FOLDER), and train that (alchemint train, "
                   "init_from: FOLDER)")
        logger.warning(f"{source} is a Wan without AlcheMinT's modules: {untrained}; {way}, or use a trained model. "
                       f"Sampled with shift {shift:g}"
                       + (", its own." if shift == layout.shift else "."))
    return parts


def load_transformer(part: Part, dtype: torch.dtype, options: Config) -> AlchemintTransformer3DModel:
    """Return a transformer of ours: a trained one, or one built around a plain Wan's weights."""
    stored = open_tensors(part.path)
    if part.is_trained:
        with torch.device("meta"):
            trained = AlchemintTransformer3DModel(**_arguments(AlchemintTransformer3DModel, part.config or {}))
        fill(trained, stored, dtype, part.path)
        return trained.eval()
    for sign, kind in _OTHER_WEIGHTS.items():
        if any(sign in name for name in stored):
            raise ValueError(f"{part.path} holds {kind}, but {NEEDED}")
    stored = _renamed(stored, names.transformer_names)
    config = part.config or {}
    if not (part.path.is_dir() and (part.path / "config.json").is_file()):
        config = sizes.transformer_config(_shapes(stored), config, part.path)
        check_channels(config, part.path)
    with torch.device("meta"):
        wan = WanTransformer3DModel(**_arguments(WanTransformer3DModel, config))
    fill(wan, stored, dtype, part.path)
    return AlchemintTransformer3DModel.from_wan(wan, **options).eval()


def load_vae(layout: Layout) -> AutoencoderKLWan:
    """Return the VAE in float32: half precision shows in flat areas, and decoding is a small part of the work."""
    path = find_file(layout.vae) if layout.released else layout.vae
    stored = open_tensors(path)
    if layout.released:
        stored = _renamed(stored, names.vae_names)
        config = sizes.vae_config(_shapes(stored), path)
    else:
        config = AutoencoderKLWan.load_config(path)
    with torch.device("meta"):
        vae = AutoencoderKLWan(**_arguments(AutoencoderKLWan, config))
    fill(vae, stored, torch.float32, path)
    return vae.eval()


def load_text_encoder(layout: Layout, dtype: torch.dtype) -> UMT5EncoderModel:
    """Return the text encoder; in float16 what overflows is kept in float32, as transformers does."""
    path = find_file(layout.text_encoder) if layout.released else layout.text_encoder
    stored = open_tensors(path)
    if layout.released:
        stored = _renamed(stored, names.text_encoder_names)
        config = UMT5Config(**sizes.text_encoder_config(_shapes(stored), path), dtype=dtype)
    else:
        config = UMT5Config.from_pretrained(path)
    with torch.device("meta"):
        encoder = UMT5EncoderModel(config)
    tied = dict(encoder._tied_weights_keys)
    for copy, original in tied.items():
        if copy in stored:
            stored.setdefault(original, stored.pop(copy))
            stored.pop(copy, None)
    fill(encoder, stored, dtype, path, tuple(tied))
    encoder.tie_weights()
    return encoder.eval()


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer in a folder; ValueError when there is none."""
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} holds no tokenizer; fetch it again") from error
    return tokenizer


def fill(model: nn.Module, stored: Stored, dtype: torch.dtype, source: Path, tied: Iterable[str] = ()) -> None:
    """Give a model on the meta device its weights, of `dtype` where the model itself does not keep float32.

    tied: names that share another's weights. Raises ValueError for the first tensor that is missing, of another shape,
    or not the model's.
    """
    expected = {name: tensor for name, tensor in model.state_dict().items() if name not in set(tied)}
    for name, tensor in expected.items():
        if name not in stored:
            raise ValueError(f"{source} lacks {name}, which its config asks for; they don't belong together")
        if stored[name].shape != tuple(tensor.shape):
            raise ValueError(f"{source}: {stored[name].name} is {stored[name].shape}, but its config asks for "
                             f"{tuple(tensor.shape)}; they don't belong together")
    if unexpected := [tensor.name for name, tensor in stored.items() if name not in expected]:
        raise ValueError(f"{source} has {unexpected[0]}, which its config does not ask for"
                         + (f", and {len(unexpected) - 1} more" if len(unexpected) > 1 else "")
                         + "; they don't belong together")
    kept = _kept_in_float32(model, dtype)
    weights = {name: stored[name].read().to(torch.float32 if set(name.split(".")) & kept else dtype)
               for name in expected}
    model.load_state_dict(weights, strict=False, assign=True)


def _kept_in_float32(model: nn.Module, dtype: torch.dtype) -> set[str]:
    """Return the names of modules that stay float32: diffusers keeps its own in any dtype, transformers in float16."""
    if isinstance(model, UMT5EncoderModel) and dtype != torch.float16:
        return set()
    kept: Any = model._keep_in_fp32_modules
    return set(kept or ())


def _renamed(stored: Stored, naming: Callable[[Iterable[str]], dict[str, str]]) -> Stored:
    return {ours: stored[theirs] for theirs, ours in naming(stored).items()}


def _shapes(stored: Stored) -> dict[str, tuple[int, ...]]:
    return {name: tensor.shape for name, tensor in stored.items()}


def _arguments(model: type, config: Config) -> Config:
    """Return what of a config the model takes; files of other versions of diffusers may say more."""
    taken = inspect.signature(model).parameters
    return {name: value for name, value in config.items() if name in taken}
