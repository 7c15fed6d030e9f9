"""Wan's own names of weights, and those of diffusers and transformers.

The transformer's are diffusers' `convert_wan_transformer_to_diffusers`. Its conversion of the VAE knows one size of
Wan 2.1's only; here the names follow from how either VAE is nested.
"""

import re
from collections.abc import Iterable

from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers

_VAE_TOP = {"conv1": "quant_conv", "conv2": "post_quant_conv"}
_VAE_SIDE = {"conv1": "conv_in", "head.0": "norm_out", "head.2": "conv_out", "middle.0": "mid_block.resnets.0",
             "middle.1": "mid_block.attentions.0", "middle.2": "mid_block.resnets.1"}
_RESIDUAL = {"residual.0": "norm1", "residual.2": "conv1", "residual.3": "norm2", "residual.6": "conv2",
             "shortcut": "conv_shortcut"}
_SAMPLERS = ("resample.", "time_conv.")

_TEXT_BLOCK = {
    "norm1": "layer.0.layer_norm", "attn.q": "layer.0.SelfAttention.q", "attn.k": "layer.0.SelfAttention.k",
    "attn.v": "layer.0.SelfAttention.v", "attn.o": "layer.0.SelfAttention.o",
    "pos_embedding.embedding": "layer.0.SelfAttention.relative_attention_bias", "norm2": "layer.1.layer_norm",
    "ffn.gate.0": "layer.1.DenseReluDense.wi_0", "ffn.fc1": "layer.1.DenseReluDense.wi_1",
    "ffn.fc2": "layer.1.DenseReluDense.wo",
}
_TEXT_TOP = {"token_embedding.weight": "shared.weight", "norm.weight": "encoder.final_layer_norm.weight"}


def transformer_names(names: Iterable[str]) -> dict[str, str]:
    """Return diffusers' name of each of Wan's; names that are diffusers' already stay."""
    names = list(names)
    if any(name.startswith("condition_embedder.") for name in names):
        return {name: name for name in names}
    converted = convert_wan_transformer_to_diffusers({name: name for name in names})
    return {theirs: ours for ours, theirs in converted.items()}


def vae_names(names: Iterable[str]) -> dict[str, str]:
    """Return diffusers' name of each of Wan's; a name that is not one of the VAE's stays."""
    names = list(names)
    samplers = [int(match[1]) for name in names if (match := re.match(r"decoder\.upsamples\.(\d+)\.resample\.", name))]
    return {name: _vae_name(name, min(samplers, default=0)) for name in names}


def text_encoder_names(names: Iterable[str]) -> dict[str, str]:
    """Return transformers' name of each of the UMT5 encoder in Wan's; a name that is not one of its own stays."""
    return {name: _text_encoder_name(name) for name in names}


def _vae_name(name: str, num_resnets: int) -> str:
    """num_resnets: how many the decoder has between two samplers, in Wan 2.1's flat list."""
    side, _, rest = name.partition(".")
    if side in _VAE_TOP:
        return f"{_VAE_TOP[side]}.{rest}"
    for theirs, ours in _VAE_SIDE.items():
        if rest.startswith(f"{theirs}."):
            return f"{side}.{ours}.{_residual(rest.removeprefix(f'{theirs}.'))}"
    if not (match := re.fullmatch(r"(?:down|up)samples\.(\d+)\.(?:(?:down|up)samples\.(\d+)\.)?(.+)", rest)):
        return name
    number, inner, rest = int(match[1]), match[2], match[3]
    way = "down" if side == "encoder" else "up"
    if inner is not None:
        place = f"{way}sampler" if rest.startswith(_SAMPLERS) else f"resnets.{inner}"
        return f"{side}.{way}_blocks.{number}.{place}.{_residual(rest)}"
    if side == "encoder":
        return f"{side}.down_blocks.{number}.{_residual(rest)}"
    block, place_number = divmod(number, num_resnets + 1)
    place = "upsamplers.0" if place_number == num_resnets else f"resnets.{place_number}"
    return f"{side}.up_blocks.{block}.{place}.{_residual(rest)}"


def _residual(rest: str) -> str:
    for theirs, ours in _RESIDUAL.items():
        if rest.startswith(f"{theirs}."):
            return f"{ours}.{rest.removeprefix(f'{theirs}.')}"
    return rest


def _text_encoder_name(name: str) -> str:
    if name in _TEXT_TOP:
        return _TEXT_TOP[name]
    match = re.fullmatch(r"blocks\.(\d+)\.(.+)\.weight", name)
    if match is None or match[2] not in _TEXT_BLOCK:
        return name
    return f"encoder.block.{match[1]}.{_TEXT_BLOCK[match[2]]}.weight"
