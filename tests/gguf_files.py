"""GGUF files of small transformers."""

from pathlib import Path
from typing import Any

import torch

from alchemint.memory import KEPT


def is_kept(name: str) -> bool:
    """Whether a transformer's weights of that name stay as they are when it is quantised."""
    return not name.startswith("blocks.") or any(part in name for part in KEPT)


def write_gguf(gguf: Any, path: Path, weights: dict[str, torch.Tensor]) -> None:
    """Write a transformer's weights with the package `gguf`: matrices of blocks as Q8_0, the rest in float32."""
    writer = gguf.GGUFWriter(path, "wan")
    for name, tensor in weights.items():
        numbers, small = tensor.float().numpy(), gguf.GGMLQuantizationType.Q8_0
        if tensor.ndim == 2 and not is_kept(name):
            writer.add_tensor(name, gguf.quants.quantize(numbers, small), raw_dtype=small)
        else:
            writer.add_tensor(name, numbers)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
