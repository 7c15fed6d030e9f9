"""The options that make sampling faster, and what several processes of one command do alike or apart."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from alchemint.acceleration import AccelerationOptions, StepCache
    from alchemint.pipeline import AlchemintPipeline

AttentionBackendOption = Annotated[str | None, typer.Option(
    help="Kernel of the attention, by diffusers' name, such as flash, sage or _native_cudnn.  [default: torch's "
         "choice]", show_default=False)]
CompileOption = Annotated[bool, typer.Option("--compile", help="Compile the transformer's block; the first steps wait "
                                                               "for it.")]
StepCacheOption = Annotated[str | None, typer.Option(
    help="Skip blocks in steps that change little: first-block:0.08, or mag:FILE:0.06 by a table that an earlier call "
         "with calibrate:FILE has measured.", show_default=False)]
ContextParallelOption = Annotated[int, typer.Option(min=1, help="Processes (of torchrun) that share the video's "
                                                                "tokens.")]
BranchParallelOption = Annotated[int, typer.Option(min=1, help="Groups of them that divide guidance's evaluations.")]


def acceleration_options(attention_backend: str | None, compile_blocks: bool, step_cache: str | None,
                         context_parallel: int, branch_parallel: int) -> "AccelerationOptions":
    """Return the options; ValueError when one is not known, or two do not go together."""
    from alchemint.acceleration import AccelerationOptions

    return AccelerationOptions(attention_backend, compile_blocks, parse_step_cache(step_cache) if step_cache else None,
                               context_parallel, branch_parallel)


def parse_step_cache(text: str) -> "StepCache":
    """Read KIND, KIND:THRESHOLD, mag:FILE, mag:FILE:THRESHOLD or calibrate:FILE, and the file of mag.

    Raises ValueError for anything else, and for a file that holds no table.
    """
    from alchemint.acceleration import STEP_CACHES, StepCache

    kind, *values = text.split(":")
    threshold = STEP_CACHES.get(kind, 0.0)
    if values and kind != "calibrate" and _is_number(values[-1]):
        threshold = float(values.pop())
    path = ":".join(values)
    if kind in STEP_CACHES and bool(path) != (kind != "first-block"):
        raise ValueError(f'step cache "{text}" is none of first-block:THRESHOLD, mag:FILE, mag:FILE:THRESHOLD and '
                         "calibrate:FILE")
    return StepCache(kind, threshold, _read_ratios(Path(path)) if kind == "mag" else ())


def calibration_file(step_cache: str | None) -> Path | None:
    """Return the file that a step cache "calibrate:FILE" writes; None for others."""
    kind, _, path = (step_cache or "").partition(":")
    return Path(path) if kind == "calibrate" else None


def write_calibration(pipeline: "AlchemintPipeline", path: Path) -> Path:
    """Write the table that `pipeline` has measured."""
    from alchemint import media
    from alchemint.acceleration import calibrated

    media.write_text(path, json.dumps({"mag_ratios": calibrated(pipeline)}, indent=2) + "\n")
    return path


def is_first_process() -> bool:
    """Tell whether this is the process that prints and writes, of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def new_console() -> Console:
    """Return a console that is silent in all processes but the first."""
    return Console(quiet=not is_first_process())


def exhaust(frames: Iterable[Any]) -> None:
    """Take part in the work of the first process, which has the frames."""
    for _ in frames:
        pass


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _read_ratios(path: Path) -> tuple[float, ...]:
    try:
        return tuple(float(ratio) for ratio in json.loads(path.read_text(encoding="utf-8"))["mag_ratios"])
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f'{path} is no table of a step cache: it must be JSON with a list "mag_ratios", as '
                         "--step-cache calibrate:FILE writes it") from error
