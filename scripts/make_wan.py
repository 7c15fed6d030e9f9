"""Write a pipeline of any Wan geometry with random weights, to try out at full size what needs no trained weights.

    python scripts/make_wan.py wan2.1-1.3b OUT --tiny-text-encoder
    python scripts/make_wan.py wan2.2-a14b OUT --layout original

The layout "diffusers" is the folder that WanPipeline.save_pretrained writes, file by file, and from_pretrained reads.
"original" is the transformer alone, in one file with the names of Wan's own code, as from_single_file reads it; the
configuration in diffusers' terms, which that needs when it is offline, lies in the folder `transformer` beside it:

    WanTransformer3DModel.from_single_file(f"{OUT}/diffusion_pytorch_model.safetensors", config=OUT,
                                           subfolder="transformer")

Every tensor comes of a random generator of its own, seeded by --seed, the component and the tensor's name: the same
seed gives the same weights in both layouts. They are written as they are drawn, so that memory holds no more than a
piece of one. The VAE is float32, as on the hub, whatever --dtype says.
"""

import argparse
import json
import math
import shutil
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from huggingface_hub import split_torch_state_dict_into_shards
from torch import nn
from transformers import UMT5Config, UMT5EncoderModel

from alchemint.training.tokenizer import train_tokenizer

Tensor = torch.Tensor
Config = dict[str, Any]
Draw = Callable[[str, Tensor], Iterator[Tensor]]

SHARD_SIZE = "5GB"
PIECE = 2 ** 24
"""How many numbers are drawn at a time."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SAFETENSORS_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}

SENTENCES = [f"{who} {does} {where}." for who, does, where in product(
    ("A brown dog", "The old fisherman", "A red balloon", "Two children"),
    ("walks slowly", "rests", "waits for a friend", "turns around"), ("on the beach", "in a quiet street", "at dusk"))]
"""What the tokenizer is trained on."""


# Geometries


@dataclass(frozen=True)
class Geometry:
    """The sizes of a pipeline's parts, where they are not the classes' own, and its settings."""

    transformer: Config
    vae: Config = field(default_factory=dict)
    text_encoder: Config | None = None
    flow_shift: float = 3.0
    boundary_ratio: float | None = None
    expand_timesteps: bool = False

    @property
    def transformers(self) -> tuple[str, ...]:
        """The names of the pipeline's transformers: two where a boundary parts high from low noise."""
        return ("transformer",) if self.boundary_ratio is None else ("transformer", "transformer_2")


WAN_22_VAE = {
    "base_dim": 160, "decoder_base_dim": 256, "z_dim": 48, "is_residual": True, "in_channels": 12, "out_channels": 12,
    "patch_size": 2, "scale_factor_spatial": 16,
    "latents_mean": [
        -0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557, -0.1382, 0.0542, 0.2813, 0.0891,
        0.1570, -0.0098, 0.0375, -0.1825, -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502,
        -0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.1230, -0.0313, -0.1649, 0.0117, 0.0723,
        -0.2839, -0.2083, -0.0520, 0.3748, 0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667],
    "latents_std": [
        0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013, 0.8158, 1.0344, 0.5894, 1.0901,
        0.6885, 0.6165, 0.8454, 0.4978, 0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659,
        0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093, 0.5709, 0.6065, 0.6415, 0.4944,
        0.5726, 1.2042, 0.5458, 1.6887, 0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744],
}
UMT5_XXL = {"vocab_size": 256384, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64}
TINY_TEXT_ENCODER = {"d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 2}
TINY_VAE = {"base_dim": 8, "decoder_base_dim": 8, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1}


def _wan(num_heads: int, num_layers: int, ffn_dim: int, channels: int = 16) -> Config:
    return {"num_attention_heads": num_heads, "num_layers": num_layers, "ffn_dim": ffn_dim, "in_channels": channels,
            "out_channels": channels}


def _tiny(channels: int = 16) -> Config:
    return {**_wan(2, 2, 48, channels), "attention_head_dim": 12, "freq_dim": 32, "text_dim": 32}


GEOMETRIES = {
    "wan2.1-1.3b": Geometry(_wan(12, 30, 8960), text_encoder=UMT5_XXL),
    "wan2.1-14b": Geometry(_wan(40, 40, 13824), text_encoder=UMT5_XXL),
    "wan2.2-5b": Geometry(_wan(24, 30, 14336, 48), WAN_22_VAE, UMT5_XXL, flow_shift=5.0, expand_timesteps=True),
    "wan2.2-a14b": Geometry(_wan(40, 40, 13824), text_encoder=UMT5_XXL, boundary_ratio=0.875),
    "tiny": Geometry(_tiny(), TINY_VAE),
    "tiny-5b": Geometry(_tiny(48), {**WAN_22_VAE, **TINY_VAE}, flow_shift=5.0, expand_timesteps=True),
    "tiny-a14b": Geometry(_tiny(), TINY_VAE, boundary_ratio=0.875),
}
"""Without a text encoder of their own, tiny ones have a tiny one."""


def build(geometry: Geometry, tiny_text_encoder: bool, dtype: torch.dtype) -> WanPipeline:
    """Return the pipeline with all weights on the meta device, and a small tokenizer; dtype is that of its files."""
    tokenizer = train_tokenizer(SENTENCES, 400)
    with torch.device("meta"):
        transformers = {name: WanTransformer3DModel(**geometry.transformer) for name in geometry.transformers}
        vae = AutoencoderKLWan(**geometry.vae)
        sizes = geometry.text_encoder
        if tiny_text_encoder or sizes is None:
            # What it gives is still as wide as what the transformer takes.
            text_dim = transformers["transformer"].config.text_dim
            sizes = {**TINY_TEXT_ENCODER, "vocab_size": len(tokenizer), "d_model": text_dim}
        text_encoder = UMT5EncoderModel(UMT5Config(
            **sizes, pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, dtype=dtype,
            architectures=[UMT5EncoderModel.__name__]))
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True,
                                        flow_shift=geometry.flow_shift)
    return WanPipeline(tokenizer, text_encoder, vae, scheduler, **transformers,
                       boundary_ratio=geometry.boundary_ratio, expand_timesteps=geometry.expand_timesteps)


# Weights


def std_of(name: str, shape: tuple[int, ...]) -> float | None:
    """Return the deviation of a tensor's first weights, or None for one that isn't random: norms 1, biases 0."""
    if name.endswith("scale_shift_table"):
        return shape[-1] ** -0.5
    if name.endswith((".bias", ".gamma")) or len(shape) == 1:
        return None
    if name == "shared.weight":
        return 1.0
    fan_in = math.prod(shape[1:])
    # T5 doesn't divide its attention's logits by the root of a head's 64 channels: its queries are small instead.
    return (fan_in * 64) ** -0.5 if name.endswith("SelfAttention.q.weight") else fan_in ** -0.5


def draw(seed: int, component: str, name: str, like: Tensor) -> Iterator[Tensor]:
    """Yield the tensor `name` of `component`, flat and in pieces, of the size and dtype of `like`."""
    std, size = std_of(name, like.shape), like.numel()
    digest = sha256(f"{seed} {component} {name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
    for begin in range(0, size, PIECE):
        piece = torch.full((min(PIECE, size - begin),), 0.0 if name.endswith(".bias") else 1.0)
        if std is not None:
            piece.normal_(0.0, std, generator=generator)
        yield piece.to(like.dtype)


def weights_of(pipe: WanPipeline, dtype: torch.dtype) -> dict[str, dict[str, Tensor]]:
    """Return the tensors of each component's files, on the meta device; those that are tied to others aren't there."""
    models = {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}
    tied = set(pipe.text_encoder._tied_weights_keys)
    return {component: {name: tensor if component == "vae" else tensor.to(dtype)
                        for name, tensor in model.state_dict().items() if name not in tied}
            for component, model in models.items()}


# Files


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], draw_one: Draw,
                      stored_name: Callable[[str], str] = str) -> None:
    """Write a file of meta `tensors` of one dtype, byte for byte as safetensors' save_file would, piece by piece."""
    header: Config = {"__metadata__": {"format": "pt"}}
    names, offset = sorted(tensors, key=stored_name), 0
    for name in names:
        tensor = tensors[name]
        header[stored_name(name)] = {"dtype": SAFETENSORS_NAMES[tensor.dtype], "shape": list(tensor.shape),
                                     "data_offsets": [offset, offset + tensor.nbytes]}
        offset += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in names:
            for piece in draw_one(name, tensors[name]):
                file.write(piece.view(torch.uint8).numpy().tobytes())


def write_shards(folder: Path, stem: str, tensors: Mapping[str, Tensor], draw_one: Draw) -> None:
    """Write `tensors` as diffusers' and transformers' save_pretrained do: one file, or several with an index."""
    split = split_torch_state_dict_into_shards(dict(tensors), filename_pattern=stem + "{suffix}.safetensors",
                                               max_shard_size=SHARD_SIZE)
    for file, names in split.filename_to_tensors.items():
        write_safetensors(folder / file, {name: tensors[name] for name in names}, draw_one)
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        text = json.dumps(index, indent=2, sort_keys=True) + "\n"
        (folder / f"{stem}.safetensors.index.json").write_text(text, encoding="utf-8")


def write_diffusers(folder: Path, pipe: WanPipeline, dtype: torch.dtype, seed: int) -> None:
    """Write what WanPipeline.save_pretrained would, with weights drawn on the way."""
    pipe.save_config(folder)
    pipe.scheduler.save_pretrained(folder / "scheduler")
    pipe.tokenizer.save_pretrained(folder / "tokenizer")
    for component, tensors in weights_of(pipe, dtype).items():
        stem = "diffusion_pytorch_model"
        if component == "text_encoder":
            pipe.text_encoder.config.save_pretrained(folder / component)
            stem = "model"
        else:
            pipe.components[component].save_config(folder / component)
        write_shards(folder / component, stem, tensors, partial(draw, seed, component))


ORIGINAL_NAMES = {
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    "proj_out": "head.head",
    ".attn1.": ".self_attn.",
    ".attn2.": ".cross_attn.",
    ".to_q.": ".q.",
    ".to_k.": ".k.",
    ".to_v.": ".v.",
    ".to_out.0.": ".o.",
    # The norm before cross-attention comes second, but Wan's own code calls it the third.
    ".norm2.": ".norm3.",
    ".ffn.net.0.proj.": ".ffn.0.",
    ".ffn.net.2.": ".ffn.2.",
    ".scale_shift_table": ".modulation",
}
"""diffusers' parts of the transformer's names, and what Wan's own code calls them."""


def original_name(name: str) -> str:
    """Return what Wan's own code calls diffusers' tensor `name` of the transformer."""
    if name == "scale_shift_table":
        return "head.modulation"
    for ours, theirs in ORIGINAL_NAMES.items():
        name = name.replace(ours, theirs)
    return name


def write_original(folder: Path, pipe: WanPipeline, dtype: torch.dtype, seed: int) -> None:
    """Write the transformer in one file with Wan's own names; two in Wan 2.2's folders for high and low noise."""
    transformers = _transformers(weights_of(pipe, dtype))
    places = [folder] if len(transformers) == 1 else [folder / "high_noise_model", folder / "low_noise_model"]
    for place, (component, tensors) in zip(places, transformers.items(), strict=True):
        place.mkdir(exist_ok=True)
        pipe.components[component].save_config(folder / component)
        write_safetensors(place / "diffusion_pytorch_model.safetensors", tensors, partial(draw, seed, component),
                          original_name)


def _transformers(weights: dict[str, dict[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    return {component: weights[component] for component in ("transformer", "transformer_2") if component in weights}


LAYOUTS = {"diffusers": write_diffusers, "original": write_original}


def make(geometry: str, folder: Path, tiny_text_encoder: bool = False, dtype: torch.dtype = torch.bfloat16,
         seed: int = 0, layout: str = "diffusers") -> None:
    """Write the folder, or nothing: it appears when it is complete.

    Raises ValueError if there is something already, or the disk has too little room.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is there already; delete it or name another")
    pipe = build(GEOMETRIES[geometry], tiny_text_encoder, dtype)
    folder.parent.mkdir(parents=True, exist_ok=True)
    weights = weights_of(pipe, dtype)
    written = weights if layout == "diffusers" else _transformers(weights)
    needed = sum(tensor.nbytes for tensors in written.values() for tensor in tensors.values())
    free = shutil.disk_usage(folder.parent).free
    if free < needed:
        raise ValueError(f"{geometry} in {dtype} takes {needed / 1e9:.1f} GB, but the disk of {folder.parent} has "
                         f"{free / 1e9:.1f} GB free; choose another folder, a smaller geometry or dtype, or "
                         "--tiny-text-encoder")
    partial_folder = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial_folder, ignore_errors=True)
    partial_folder.mkdir()
    LAYOUTS[layout](partial_folder, pipe, dtype, seed)
    partial_folder.replace(folder)


def main() -> None:
    """Read the command line and write the folder that it asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("geometry", choices=GEOMETRIES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tiny-text-encoder", action="store_true", help="instead of UMT5-XXL, 11 GB in bfloat16")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--layout", choices=LAYOUTS, default="diffusers")
    options = parser.parse_args()
    try:
        make(options.geometry, options.folder, options.tiny_text_encoder, DTYPES[options.dtype], options.seed,
             options.layout)
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
