"""What weights say of the sizes of their model, where no config lies beside them.

Shapes are those of diffusers' and transformers' names (`names`). Configs are in diffusers' and transformers' terms.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Config = dict[str, Any]
Shapes = Mapping[str, tuple[int, ...]]

HEAD_DIM = 128
"""The channels of an attention head in all of Wan's transformers."""

# Of Wan 2.2's VAE; those of Wan 2.1's are diffusers' defaults.
LATENTS_MEAN = [
    -0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557, -0.1382, 0.0542, 0.2813, 0.0891,
    0.1570, -0.0098, 0.0375, -0.1825, -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502,
    -0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.1230, -0.0313, -0.1649, 0.0117, 0.0723,
    -0.2839, -0.2083, -0.0520, 0.3748, 0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667]
LATENTS_STD = [
    0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013, 0.8158, 1.0344, 0.5894, 1.0901,
    0.6885, 0.6165, 0.8454, 0.4978, 0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659,
    0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093, 0.5709, 0.6065, 0.6415, 0.4944,
    0.5726, 1.2042, 0.5458, 1.6887, 0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744]


def transformer_config(shapes: Shapes, like: Config, source: Path) -> Config:
    """Return the config of a transformer. like: that of another Wan, for what weights don't tell.

    Raises ValueError for weights that are no Wan transformer's.
    """
    try:
        dim, in_channels, *patch_size = shapes["patch_embedding.weight"]
        config = {
            "patch_size": patch_size, "in_channels": in_channels,
            "out_channels": shapes["proj_out.weight"][0] // math.prod(patch_size),
            "text_dim": shapes["condition_embedder.text_embedder.linear_1.weight"][1],
            "freq_dim": shapes["condition_embedder.time_embedder.linear_1.weight"][1],
            "ffn_dim": shapes["blocks.0.ffn.net.0.proj.weight"][0], "num_layers": _count(shapes, r"blocks\.(\d+)\."),
        }
    except (KeyError, ValueError, IndexError) as error:
        raise ValueError(f"{source} holds no Wan transformer: it has no {error}, but "
                         f"{', '.join(list(shapes)[:2])} and {max(0, len(shapes) - 2)} more") from error
    head_dim = like.get("attention_head_dim", HEAD_DIM)
    if dim != like.get("num_attention_heads", 0) * head_dim:
        head_dim = HEAD_DIM
    if dim % head_dim:
        raise ValueError(f"{source} has a width of {dim}, which no number of heads of {head_dim} channels makes; put "
                         "its config.json beside it")
    return {"attention_head_dim": head_dim, "num_attention_heads": dim // head_dim, "eps": like.get("eps", 1e-6),
            **config}


def vae_config(shapes: Shapes, source: Path) -> Config:
    """Return the config of either of Wan's VAEs; ValueError for weights that are neither's."""
    try:
        return _vae_config(shapes)
    except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
        raise ValueError(f"{source} holds no VAE of Wan's: it has no {error}; fetch it again") from error


def _vae_config(shapes: Shapes) -> Config:
    base_dim, in_channels = shapes["encoder.conv_in.weight"][:2]
    z_dim = shapes["post_quant_conv.weight"][0]
    is_residual = "encoder.down_blocks.0.resnets.0.conv1.weight" in shapes
    num_resnets = _count(shapes, r"decoder\.up_blocks\.0\.resnets\.(\d+)\.")
    num_levels = _count(shapes, r"decoder\.up_blocks\.(\d+)\.")
    # Wan 2.1's encoder is a flat list: resnets and a sampler for each level.
    firsts = [f"encoder.down_blocks.{level}.resnets.0" if is_residual else f"encoder.down_blocks.{level * num_resnets}"
              for level in range(num_levels)]
    samplers = [f"encoder.down_blocks.{level}.downsampler" if is_residual
                else f"encoder.down_blocks.{(level + 1) * num_resnets - 1}" for level in range(num_levels - 1)]
    dim_mult = [shapes[f"{first}.conv1.weight"][0] // base_dim for first in firsts]
    patch_size = math.isqrt(in_channels // 3)
    config: Config = {
        "base_dim": base_dim, "decoder_base_dim": shapes["decoder.conv_out.weight"][1] // dim_mult[0], "z_dim": z_dim,
        "dim_mult": dim_mult, "num_res_blocks": num_resnets - 1,
        "temperal_downsample": [f"{sampler}.time_conv.weight" in shapes for sampler in samplers],
        "is_residual": is_residual, "in_channels": in_channels,
        "out_channels": shapes["decoder.conv_out.weight"][0], "patch_size": patch_size if patch_size > 1 else None,
        "scale_factor_spatial": 2 ** (num_levels - 1) * patch_size,
    }
    return config | {"latents_mean": LATENTS_MEAN, "latents_std": LATENTS_STD} if z_dim == 48 else config


def text_encoder_config(shapes: Shapes, source: Path) -> Config:
    """Return the config of a UMT5 encoder; ValueError for weights that are none's."""
    attention = "encoder.block.0.layer.0.SelfAttention"
    try:
        vocab_size, d_model = shapes["shared.weight"]
        num_buckets, num_heads = shapes[f"{attention}.relative_attention_bias.weight"]
        return {
            "vocab_size": vocab_size, "d_model": d_model, "num_heads": num_heads,
            "d_kv": shapes[f"{attention}.q.weight"][0] // num_heads,
            "d_ff": shapes["encoder.block.0.layer.1.DenseReluDense.wi_0.weight"][0],
            "num_layers": _count(shapes, r"encoder\.block\.(\d+)\."), "relative_attention_num_buckets": num_buckets,
        }
    except (KeyError, ValueError, IndexError) as error:
        raise ValueError(f"{source} holds no UMT5 encoder: it has no {error}; fetch it again") from error


def _count(shapes: Shapes, pattern: str) -> int:
    """Return one more than the highest number that a pattern finds at the beginning of names."""
    return 1 + max(int(match[1]) for name in shapes if (match := re.match(pattern, name)))
