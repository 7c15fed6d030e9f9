"""What flows along the links between these nodes; as ComfyUI has it, each is a name that both ends must share."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from alchemint.memory import MemoryOptions
    from alchemint.pipeline import AlchemintPipeline

MODEL = "ALCHEMINT_MODEL"
"""A `LoadedModel`."""

SUBJECTS = "ALCHEMINT_SUBJECTS"
"""A tuple of `alchemint.storyboard.Subject` whose images are PIL images."""

STORYBOARD = "ALCHEMINT_STORYBOARD"
"""An `alchemint.storyboard.Storyboard` whose images are PIL images, or paths in ComfyUI's input folder."""

GUIDANCE = "ALCHEMINT_GUIDANCE"
"""A dictionary: which values of `alchemint.diffusion.guidance.Guidance` differ from the model's own."""


@dataclass(frozen=True)
class LoadedModel:
    """A pipeline and how it came about: its name for the record, where its JSON files lie, where and how it runs."""

    pipeline: "AlchemintPipeline"
    name: str
    config_folder: "Path"
    base_folder: "Path | None"
    device: str
    dtype: str
    memory: "MemoryOptions"
    loading_s: float
