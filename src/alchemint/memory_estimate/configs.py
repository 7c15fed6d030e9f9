"""The configs of a model's parts, as its JSON files tell them, or as Wan's published parts have them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alchemint.memory import TRANSFORMERS, gguf_file
from alchemint.wan import layout

Config = Mapping[str, Any]

WAN_TRANSFORMER: Config = {"patch_size": (1, 2, 2), "text_dim": 4096, "freq_dim": 256, "cross_attn_norm": True}
WAN_21_VAE: Config = {
    "base_dim": 96, "decoder_base_dim": None, "z_dim": 16, "dim_mult": (1, 2, 4, 4), "num_res_blocks": 2,
    "temperal_downsample": (False, True, True), "is_residual": False, "in_channels": 3, "out_channels": 3,
    "patch_size": None, "scale_factor_spatial": 8,
}
WAN_22_VAE: Config = {
    **WAN_21_VAE,
    "base_dim": 160, "decoder_base_dim": 256, "z_dim": 48, "is_residual": True, "in_channels": 12, "out_channels": 12,
    "patch_size": 2, "scale_factor_spatial": 16,
}
UMT5_XXL: Config = {
    "vocab_size": 256384, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64,
    "feed_forward_proj": "gated-gelu", "relative_attention_num_buckets": 32,
}
"""What configs of Wan's parts leave out, and what they are where a Wan comes without configs, as it was released."""


@dataclass(frozen=True)
class Configs:
    """A pipeline's configs: of one or two transformers, of the VAE and the text encoder, and the lengths of texts.

    gguf_bytes: the sizes of the transformers' GGUF files, where there are such.
    """

    transformers: tuple[Config, ...]
    vae: Config
    text_encoder: Config
    max_prompt_tokens: int = 512
    max_event_tokens: int = 128
    expand_timesteps: bool = False
    gguf_bytes: tuple[int, ...] = ()


def read_configs(folder: str | Path, base: str | Path | None = None, quantize: str | None = None) -> Configs:
    """Return the configs of a model: a pipeline of ours, a plain Wan, or a transformer alone and its `base`.

    Nothing but JSON files is read. Raises ValueError where there is no such model.
    """
    folder = Path(folder)
    if base is not None or layout.is_wan(folder):
        return _of_wan(layout.find(folder, None if base is None else Path(base)))
    index, names = _read(folder / "model_index.json"), [name for name in TRANSFORMERS if (folder / name).is_dir()]
    gguf = tuple(gguf_file(folder, name).stat().st_size for name in names) if quantize == "gguf" else ()
    return Configs(tuple({**WAN_TRANSFORMER, **_read(folder / name / "config.json")} for name in names),
                   {**WAN_21_VAE, **_read(folder / "vae" / "config.json")},
                   {**UMT5_XXL, **_read(folder / "text_encoder" / "config.json")},
                   index["max_prompt_tokens"], index["max_event_tokens"], index.get("expand_timesteps", False), gguf)


def _of_wan(found: layout.Layout) -> Configs:
    first = found.transformer_config
    vae = WAN_22_VAE if found.vae_stride == WAN_22_VAE["scale_factor_spatial"] else WAN_21_VAE
    text_encoder = UMT5_XXL
    if not found.released:
        vae = {**vae, **_read(found.vae / "config.json")}
        text_encoder = {**text_encoder, **_read(found.text_encoder / "config.json")}
    return Configs(tuple({**WAN_TRANSFORMER, **first, **(part.config or {})} for part in found.transformers), vae,
                   text_encoder, expand_timesteps=found.expand_timesteps)


def _read(path: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} can't be read, by which memory is told: {error}") from error
    return config
