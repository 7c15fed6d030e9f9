"""Less memory: quantised weights, small storage, tiles and offloading, set in one order.

    1. quantisation     while loading (`loading_arguments`)
    2. storage          linear layers of blocks kept in float8 and cast for each use
    3. tiles            the VAE encodes and decodes tile by tile, video by video
    4. acceleration     attention backends, compilation and step caches: alchemint.acceleration, not done here
    5. offloading       hooks that bring weights to the device and away, last, so that they lie outermost

`fit` does 2, 3 and 5. What each choice of `memory` means:

    high        all on the device
    balanced    3; the model that works is on the device, the others wait in the host's memory
    low         2 (unless quantised), 3; of transformers and text encoder only what works now is on the device, block by
                block and layer by layer, while the next is on its way
"""

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from alchemint.acceleration import AccelerationOptions
    from alchemint.pipeline import AlchemintPipeline

MEMORIES = ("high", "balanced", "low")
PACKAGES = {"int8": "torchao", "fp8": "torchao", "nf4": "bitsandbytes", "gguf": "gguf"}
"""The kinds of quantisation, and the package that each needs: an extra of ours has it under the same name."""

TRANSFORMERS = ("transformer", "transformer_2")
KEPT = ("subject_index", "word_tags", "event_attn", "patch_embedding", "condition_embedder", "norm", "proj_out")
"""Modules of a transformer whose weights stay as they are: new ones, embeddings, norms, and the last projection."""


@dataclass(frozen=True)
class MemoryOptions:
    """How memory is saved. memory: one of MEMORIES. quantize: a kind of quantisation, a key of PACKAGES, or None."""

    memory: str = "high"
    quantize: str | None = None

    def __post_init__(self) -> None:
        if self.memory not in MEMORIES:
            raise ValueError(f'memory "{self.memory}" is unknown; use one of {", ".join(MEMORIES)}')
        if self.quantize is not None and self.quantize not in PACKAGES:
            raise ValueError(f'quantize "{self.quantize}" is unknown; use one of {", ".join(PACKAGES)}')

    def __str__(self) -> str:
        return self.memory if self.quantize is None else f"{self.memory}, weights in {self.quantize}"

    @property
    def tiles(self) -> bool:
        """Whether the VAE works tile by tile."""
        return self.memory != "high"

    @property
    def casts(self) -> bool:
        """Whether blocks' linear layers are kept in float8. Quantised ones are small already, and can't be cast."""
        return self.memory == "low" and self.quantize is None


def check(options: MemoryOptions, device: str, dtype: str, folder: str | Path, is_pipeline: bool = True,
          acceleration: "AccelerationOptions | None" = None) -> None:
    """Raise ValueError for what can't work on a device, before anything is loaded.

    device: "cpu" or "cuda". dtype: such as "bfloat16". folder: the model's. is_pipeline: whether that is a pipeline of
    ours; a plain Wan becomes one only when it is loaded.
    """
    kind = options.quantize
    if kind is not None:
        _check_package(kind)
        if not is_pipeline:
            raise ValueError(f"quantize {kind} needs a pipeline of ours, and {folder} is a plain Wan or a transformer "
                             "alone; write one with AlchemintPipeline.from_wan(...).save_pretrained(FOLDER)")
    if kind == "nf4" and device == "cpu":
        raise ValueError("quantize nf4 needs a GPU; use int8 or fp8 on a CPU")
    if kind == "gguf":
        for name in _transformers_in(Path(folder)):
            _check_gguf(gguf_file(folder, name))
    if kind == "nf4" and dtype == "float16":
        raise ValueError("quantize nf4 computes in bfloat16 or float32 here; leave --dtype float16 out")
    if options.memory == "balanced" and device == "cpu":
        raise ValueError("memory balanced moves models between a GPU and the host; on a CPU use high or low")
    if acceleration is None:
        return
    if acceleration.num_processes > 1 and options.memory != "high":
        raise ValueError(f"memory {options.memory} would hold all weights once more in the host's memory for each of "
                         f"the {acceleration.num_processes} processes; use high")
    if acceleration.compile and options.casts:
        raise ValueError("compile can't trace the casts of memory low; add --quantize int8, which has none, or use "
                         "balanced")
    if acceleration.compile and kind in ("nf4", "gguf"):
        raise ValueError(f"compile can't trace the layers of quantize {kind} as one graph; use int8 or fp8")


def _check_package(kind: str) -> None:
    package = PACKAGES[kind]
    if importlib.util.find_spec(package) is None:
        raise ValueError(f'quantize {kind} needs the package {package}, which is not installed; '
                         f'run: pip install "alchemint[{package}]"')


def loading_arguments(options: MemoryOptions, folder: str | Path, dtype: "torch.dtype") -> dict[str, Any]:
    """Return what `AlchemintPipeline.from_pretrained` is to be given besides for its weights to come quantised.

    folder: the pipeline's; for gguf it has a file of that kind in `transformer` (and `transformer_2`), beside the
    config. Quantised are the linear layers of the transformers' blocks, but for KEPT, and with int8, fp8 and nf4 those
    of the text encoder.
    """
    if options.quantize is None:
        return {}
    _check_package(options.quantize)
    if options.quantize == "gguf":
        for name in _transformers_in(Path(folder)):
            _check_gguf(gguf_file(folder, name))
        return {name: _from_gguf(Path(folder), name, dtype) for name in _transformers_in(Path(folder))}
    from diffusers import PipelineQuantizationConfig

    transformer, text_encoder = _configs(options.quantize, dtype)
    mapping = {name: transformer() for name in _transformers_in(Path(folder))}
    return {"quantization_config": PipelineQuantizationConfig(quant_mapping=mapping | {"text_encoder": text_encoder()})}


def _configs(kind: str, dtype: "torch.dtype") -> tuple[Any, Any]:
    """Return what makes the configs of a transformer and of a text encoder, diffusers' and transformers'."""
    import diffusers
    import transformers

    if kind == "nf4":
        nf4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype,
               "bnb_4bit_use_double_quant": True}
        return (lambda: diffusers.BitsAndBytesConfig(**nf4, llm_int8_skip_modules=list(KEPT)),
                lambda: transformers.BitsAndBytesConfig(**nf4))
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig

    weights = Int8WeightOnlyConfig(version=2) if kind == "int8" else Float8WeightOnlyConfig()
    return (lambda: diffusers.TorchAoConfig(weights, modules_to_not_convert=list(KEPT)),
            lambda: transformers.TorchAoConfig(weights))


def _transformers_in(folder: Path) -> Iterator[str]:
    return (name for name in TRANSFORMERS if (folder / name).is_dir())


def gguf_file(folder: str | Path, name: str) -> Path:
    """Return the GGUF file of one of a pipeline folder's transformers; ValueError where there is none, or several."""
    found = sorted((Path(folder) / name).glob("*.gguf"))
    if len(found) != 1:
        raise ValueError(f"quantize gguf needs one .gguf file in {Path(folder) / name}, but there "
                         f"{'is none' if not found else f'are {len(found)}'}")
    return found[0]


def _check_gguf(path: Path) -> None:
    """Raise ValueError for a file that is none, or lacks the modules that Wan does not have."""
    import gguf

    try:
        names = {tensor.name for tensor in gguf.GGUFReader(path).tensors}
    except (ValueError, IndexError) as error:
        raise ValueError(f"{path} can't be read as GGUF: {error}") from error
    if not any(name.startswith("subject_index.") for name in names):
        raise ValueError(f"{path} lacks the modules that Wan does not have, such as subject_index; it has to be made "
                         "of the whole trained transformer")


def _from_gguf(folder: Path, name: str, dtype: "torch.dtype") -> Any:
    from diffusers import GGUFQuantizationConfig

    from alchemint.model.transformer import AlchemintTransformer3DModel

    return AlchemintTransformer3DModel.from_single_file(
        str(gguf_file(folder, name)), config=str(folder), subfolder=name, dtype=dtype,
        quantization_config=GGUFQuantizationConfig(compute_dtype=dtype))


def fit(pipeline: "AlchemintPipeline", options: MemoryOptions, device: "torch.device | str") -> None:
    """Bring a loaded pipeline to `device` in the way of `options`, once, after all that accelerates it.

    The pipeline has to be in the host's memory still, but for "high". The text encoder, the transformers and the VAE
    then come to the device by themselves; calls are made as ever.
    """
    import torch

    device = torch.device(device)
    if options.casts:
        for transformer in pipeline.transformers:
            # The skipped modules' types are read where they are used, or they belong to new modules.
            transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=transformer.dtype,
                                                 skip_modules_pattern=KEPT)
    if options.tiles:
        pipeline.vae.enable_tiling()
        pipeline.vae.enable_slicing()
    if options.memory == "high":
        pipeline.to(device)
    elif options.memory == "balanced":
        pipeline.enable_model_cpu_offload(device=device)
    else:
        _offload_in_groups(pipeline, device)


def _offload_in_groups(pipeline: "AlchemintPipeline", device: "torch.device") -> None:
    """Bring blocks of the transformers, and layers of the text encoder, to the device while they work.

    The VAE is small, and stays there.
    """
    from diffusers.hooks import apply_group_offloading

    streams = device.type == "cuda"
    for transformer in pipeline.transformers:
        transformer.enable_group_offload(onload_device=device, offload_type="block_level", num_blocks_per_group=1,
                                         use_stream=streams)
    apply_group_offloading(pipeline.text_encoder, onload_device=device, offload_type="leaf_level", use_stream=streams)
    pipeline.vae.to(device)
