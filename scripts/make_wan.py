"""Write a pipeline of any Wan geometry with random weights, to try out at full size what needs no trained weights.

    python scripts/make_wan.py wan2.1-1.3b OUT --tiny-text-encoder
    python scripts/make_wan.py wan2.2-a14b OUT --layout original

The layout "diffusers" is the folder that WanPipeline.save_pretrained writes, file by file, and from_pretrained reads.
"original" is the folder that Wan's authors released: the transformer with the names of Wan's own code and config.json
in its terms, VAE and text encoder as .pth, and the tokenizer. AlchemintPipeline.from_wan reads either.

Every tensor comes of a random generator of its own, seeded by --seed, the component and the tensor's name: the same
seed gives the same weights in both layouts. They are written as they are drawn, so that memory holds no more than a
piece of one. The VAE is float32, as on the hub, whatever --dtype says.
"""

import argparse
import json
import math
import re
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
from alchemint.wan.sizes import LATENTS_MEAN, LATENTS_STD

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
    "patch_size": 2, "scale_factor_spatial": 16, "latents_mean": LATENTS_MEAN, "latents_std": LATENTS_STD,
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
    "tiny-14b": Geometry({**_tiny(), "num_attention_heads": 4, "num_layers": 3}, TINY_VAE),
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


def write_shards(folder: Path, stem: str, tensors: Mapping[str, Tensor], draw_one: Draw,
                 stored_name: Callable[[str], str] = str) -> None:
    """Write `tensors` as diffusers' and transformers' save_pretrained do: one file, or several with an index."""
    split = split_torch_state_dict_into_shards(dict(tensors), filename_pattern=stem + "{suffix}.safetensors",
                                               max_shard_size=SHARD_SIZE)
    for file, names in split.filename_to_tensors.items():
        write_safetensors(folder / file, {name: tensors[name] for name in names}, draw_one, stored_name)
    if split.is_sharded:
        places = {stored_name(name): file for name, file in split.tensor_to_filename.items()}
        index = {"metadata": split.metadata, "weight_map": places}
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


ORIGINAL_VAE_NAMES = {
    r"^quant_conv\.": "conv1.", r"^post_quant_conv\.": "conv2.", r"\.conv_in\.": ".conv1.", r"\.norm_out\.": ".head.0.",
    r"\.conv_out\.": ".head.2.", r"\.mid_block\.resnets\.0\.": ".middle.0.",
    r"\.mid_block\.attentions\.0\.": ".middle.1.",
    r"\.mid_block\.resnets\.1\.": ".middle.2.", r"\.down_blocks\.": ".downsamples.", r"\.up_blocks\.": ".upsamples.",
    r"\.norm1\.": ".residual.0.", r"\.norm2\.": ".residual.3.", r"\.conv_shortcut\.": ".shortcut.",
    # Only in a residual block, whose place is a number; the convolutions at the ends have none before them.
    r"\.(\d+)\.conv1\.": r".\1.residual.2.", r"\.(\d+)\.conv2\.": r".\1.residual.6.",
}
"""diffusers' parts of the VAE's names, as patterns, and what Wan's own code calls them."""


def original_vae_name(name: str, num_res_blocks: int, is_residual: bool) -> str:
    """Return what Wan's own code calls diffusers' tensor `name` of a VAE.

    A level of the decoder is num_res_blocks + 1 blocks and a sampler: nested in Wan 2.2's VAE, in one list in 2.1's.
    """
    for ours, theirs in ORIGINAL_VAE_NAMES.items():
        name = re.sub(ours, theirs, name)
    num_blocks = {"down": num_res_blocks, "up": num_res_blocks + 1}
    if is_residual:
        name = re.sub(r"\.(down|up)sampler\.", lambda match: f".{match[1]}samples.{num_blocks[match[1]]}.", name)
        return re.sub(r"\.(down|up)samples\.(\d+)\.resnets\.", r".\1samples.\2.\1samples.", name)
    name = name.replace(".upsamplers.0.", f".resnets.{num_blocks['up']}.")
    return re.sub(r"\.upsamples\.(\d+)\.resnets\.(\d+)\.", lambda match: ".upsamples.{}.".format(
        int(match[1]) * (num_blocks["up"] + 1) + int(match[2])), name)


ORIGINAL_TEXT_NAMES = {
    "shared.": "token_embedding.", "encoder.final_layer_norm.": "norm.", "encoder.block.": "blocks.",
    "layer.0.layer_norm.": "norm1.", "layer.1.layer_norm.": "norm2.",
    "layer.0.SelfAttention.relative_attention_bias.": "pos_embedding.embedding.", "layer.0.SelfAttention.": "attn.",
    "layer.1.DenseReluDense.wi_0.": "ffn.gate.0.", "layer.1.DenseReluDense.wi_1.": "ffn.fc1.",
    "layer.1.DenseReluDense.wo.": "ffn.fc2.",
}
"""transformers' parts of the text encoder's names, and what Wan's own code calls them."""


def original_text_name(name: str) -> str:
    """Return what Wan's own code calls transformers' tensor `name` of the text encoder."""
    for ours, theirs in ORIGINAL_TEXT_NAMES.items():
        name = name.replace(ours, theirs)
    return name


def original_config(config: Mapping[str, Any], kind: str) -> Config:
    """Return a transformer's config in Wan's own terms; the width of texts only where it isn't that of all of Wan's."""
    sizes = {"_class_name": "WanModel", "_diffusers_version": "0.30.0", "model_type": kind,
             "dim": config["num_attention_heads"] * config["attention_head_dim"], "eps": config["eps"],
             "ffn_dim": config["ffn_dim"], "freq_dim": config["freq_dim"], "in_dim": config["in_channels"],
             "num_heads": config["num_attention_heads"], "num_layers": config["num_layers"],
             "out_dim": config["out_channels"], "text_len": 512}
    return sizes if config["text_dim"] == 4096 else {**sizes, "text_dim": config["text_dim"]}


def write_original(folder: Path, pipe: WanPipeline, dtype: torch.dtype, seed: int) -> None:
    """Write a folder as released; two transformers lie in Wan 2.2's folders for high and low noise."""
    weights = weights_of(pipe, dtype)
    transformers = [name for name in ("transformer", "transformer_2") if name in weights]
    places = [folder] if len(transformers) == 1 else [folder / "high_noise_model", folder / "low_noise_model"]
    for place, component in zip(places, transformers, strict=True):
        place.mkdir(exist_ok=True)
        config = original_config(pipe.components[component].config, "ti2v" if pipe.config.expand_timesteps else "t2v")
        (place / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        write_shards(place, "diffusion_pytorch_model", weights[component], partial(draw, seed, component),
                     original_name)
    vae = pipe.vae.config
    in_vae = partial(original_vae_name, num_res_blocks=vae.num_res_blocks, is_residual=vae.is_residual)
    write_pth(folder / ("Wan2.2_VAE.pth" if vae.is_residual else "Wan2.1_VAE.pth"), weights["vae"],
              partial(draw, seed, "vae"), in_vae)
    write_pth(folder / "models_t5_umt5-xxl-enc-bf16.pth", weights["text_encoder"], partial(draw, seed, "text_encoder"),
              original_text_name)
    pipe.tokenizer.save_pretrained(folder / "google" / "umt5-xxl")


def write_pth(path: Path, tensors: Mapping[str, Tensor], draw_one: Draw, stored_name: Callable[[str], str]) -> None:
    """Write PyTorch's own kind of file, which takes all tensors at once."""
    torch.save({stored_name(name): torch.cat(list(draw_one(name, tensor))).view(tensor.shape)
                for name, tensor in tensors.items()}, path)


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
    needed = sum(tensor.nbytes for tensors in weights.values() for tensor in tensors.values())
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
