"""The node that loads a model: toy, a folder, or a name on the Hugging Face hub."""

import time
from pathlib import Path
from typing import Any

from .types_of_links import MODEL, LoadedModel

NO_QUANTIZE = "none"


class LoadModel:
    """A pipeline of alchemint's, on its device. ComfyUI keeps it until the inputs, or a folder's files, change."""

    CATEGORY, FUNCTION = "alchemint", "run"
    RETURN_TYPES, RETURN_NAMES = (MODEL,), ("model",)
    DESCRIPTION = "toy is the small model that comes with alchemint; Wan models are trained with alchemint train."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        """Return the inputs; new ones are only ever appended, so that old workflows keep loading."""
        return {
            "required": {
                "model": ("STRING", {"default": "toy", "tooltip": (
                    "toy, a folder on ComfyUI's machine, or a name on the hub such as owner/name, which is fetched.")}),
            },
            "optional": {
                "device": (["auto", "cpu", "cuda"], {"default": "auto"}),
                "dtype": (["auto", "float32", "bfloat16", "float16"], {"default": "auto"}),
                "memory": (["high", "balanced", "low"], {"default": "high", "tooltip": (
                    "high keeps all on the device, balanced only the model that works, low only the block that "
                    "works.")}),
                "quantize": ([NO_QUANTIZE, "int8", "fp8", "nf4", "gguf"], {"default": NO_QUANTIZE, "tooltip": (
                    "Keep the weights in this kind of numbers; each kind but none needs a package.")}),
                "base": ("STRING", {"default": "", "tooltip": (
                    "Where model is a transformer alone: the Wan that supplies VAE, text encoder and tokenizer.")}),
            },
        }

    @classmethod
    def IS_CHANGED(cls, model: str | None = None, **_: Any) -> str:  # noqa: N802 - ComfyUI's name
        """Return what changes when a folder's weights do; nothing is fetched for it."""
        from alchemint.cli.models import TOY, find_model

        try:
            is_here = model is not None and (model == TOY or Path(model).is_dir())
            return find_model(str(model)).edition if is_here else ""
        except (ValueError, OSError):  # told of when the node runs
            return ""

    def run(self, model: str, device: str = "auto", dtype: str = "auto", memory: str = "high",
            quantize: str = NO_QUANTIZE, base: str = "") -> tuple[LoadedModel]:
        """Load the model; ValueError where there is none, or it cannot be run so."""
        import torch

        from alchemint.cli.models import find_model, load_pipeline, pick_device, pick_dtype
        from alchemint.memory import MemoryOptions, check, fit

        begun = time.perf_counter()
        source = find_model(model.strip(), base.strip() or None)
        options = MemoryOptions(memory, None if quantize == NO_QUANTIZE else quantize)
        chosen_device = pick_device(device)  # type: ignore[arg-type]
        chosen_dtype = pick_dtype(dtype, chosen_device)  # type: ignore[arg-type]
        check(options, chosen_device, chosen_dtype, source.config_folder, not source.is_wan)
        # ComfyUI runs nodes in inference mode. Weights made in it cannot be changed later, as offloading does.
        with torch.inference_mode(False):
            pipeline = load_pipeline(source, chosen_device, chosen_dtype, options)
            fit(pipeline, options, chosen_device)
        name = f"{model.strip()} on {base.strip()}" if base.strip() else model.strip()
        return (LoadedModel(pipeline, name, source.config_folder, source.base_folder, chosen_device, chosen_dtype,
                            options, time.perf_counter() - begun),)
