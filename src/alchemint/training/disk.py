"""Whether a run's checkpoints will find room."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from alchemint.training.ranks import Ranks

_TENSORS_A_WEIGHT = 4
"""The weight, its average and AdamW's two moments."""


def check_disk(output: Path, parameters: Sequence[nn.Parameter], num_kept: int, ranks: Ranks) -> None:
    """Raise ValueError when the disk of `output` can't hold the run's checkpoints, one more than are kept."""
    if not ranks.is_first:
        return
    output.mkdir(parents=True, exist_ok=True)
    checkpoint = _TENSORS_A_WEIGHT * sum(parameter.numel() * parameter.element_size() for parameter in parameters)
    existing = sum(path.stat().st_size for path in (output / "checkpoints").rglob("*.safetensors"))
    needed, free = checkpoint * (num_kept + 1), shutil.disk_usage(output).free + existing
    if needed > free:
        raise ValueError(f"{output}: {num_kept + 1} checkpoints need {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are "
                         "free; choose another output or a smaller run.keep_checkpoints")
