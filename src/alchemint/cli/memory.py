"""The options that save memory, and what the plan says of it."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from alchemint.cli.models import ModelSource
    from alchemint.memory import MemoryOptions
    from alchemint.memory_estimate import Work

Memory = Literal["high", "balanced", "low"]
Quantize = Literal["int8", "fp8", "nf4", "gguf"]

MemoryOption = Annotated[Memory, typer.Option(
    help="high keeps all on the device, balanced only the model that works, low only the block that works.")]
QuantizeOption = Annotated[Quantize | None, typer.Option(
    help="Keep the weights in this kind of numbers; gguf reads the .gguf files in the model's folder.",
    show_default=False)]


def memory_line(source: "ModelSource", work: "Work", options: "MemoryOptions", device: str, dtype: str) -> str:
    """Return the plan's line about memory: what is expected at the peak, and when."""
    from alchemint.memory_estimate import CUDA_CONTEXT, expected_peak, read_configs

    configs = read_configs(source.config_folder, source.base_folder, options.quantize)
    peak = expected_peak(configs, work, options, device, dtype)
    if device == "cpu":
        return f"memory  {_gib(peak.host_bytes)} expected, most in {peak.stage}; {options}"
    return (f"memory  {_gib(peak.device_bytes)} expected on {device}, most in {peak.stage}, and about "
            f"{_gib(CUDA_CONTEXT)} of its own; {_gib(peak.host_bytes)} in the host's memory; {options}")


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.2f} GiB" if num_bytes < 10 * 2**30 else f"{num_bytes / 2**30:.1f} GiB"
