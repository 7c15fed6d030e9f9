"""A storyboard's video as files, and the record of everything that made it: what the command line and the studio share.

The same storyboard, seed and options give the same video, byte for byte, whoever asks for it.
"""

import hashlib
import importlib.metadata
import json
import os
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alchemint.storyboard import Storyboard

if TYPE_CHECKING:
    import numpy as np

    from alchemint.acceleration import AccelerationOptions
    from alchemint.diffusion.guidance import Guidance
    from alchemint.memory import MemoryOptions
    from alchemint.pipeline import AlchemintPipeline, StepCallback

RECORDED_PACKAGES = ("alchemint", "torch", "diffusers", "transformers")


@dataclass(frozen=True)
class Options:
    """How a storyboard is to be sampled; all of it is recorded beside the video."""

    steps: int
    guidance: "Guidance"
    guidance_2: "Guidance"
    batch_branches: bool
    device: str
    dtype: str
    upscale: int
    window: int
    overlap_s: float | None
    reference_gate: float | None
    acceleration: "AccelerationOptions"
    memory: "MemoryOptions"


@dataclass(frozen=True)
class Written:
    """The files that a video's making left, the video first, and how many seconds its parts took."""

    paths: tuple[Path, ...]
    seconds: dict[str, float]


def sample(
    pipeline: "AlchemintPipeline", board: Storyboard, options: Options, on_step_end: "StepCallback",
    tensor_inputs: Sequence[str] = ("latents",),
) -> "Generator[np.ndarray]":
    """Yield the frames of a resolved storyboard, (height, width, 3) uint8, window after window.

    on_step_end: the pipeline's callback, with steps counted through all windows; tensor_inputs: what it is given.
    Raises ValueError when the device's memory does not suffice.
    """
    import torch

    from alchemint.long_video import long_video

    try:
        yield from long_video(
            pipeline, board, options.window, options.overlap_s, options.steps, on_step_end,
            guidance=options.guidance, guidance_2=options.guidance_2, batch_branches=options.batch_branches,
            reference_gate=options.reference_gate, callback_on_step_end_tensor_inputs=tensor_inputs)
    except torch.OutOfMemoryError as error:
        raise ValueError(f"the memory of {options.device} does not suffice; use --memory low, --sequential-branches, a "
                         "smaller width and height, a smaller --window or fewer references") from error


def write(
    target: Path, frames: "Iterator[np.ndarray]", board: Storyboard, options: Options, model: str, loading: float,
    sheet: Path | None = None, record: Path | None = None,
) -> Written:
    """Write a video as its frames are made, then the record of everything that made it, then a contact sheet.

    model: its name, for the record. loading: seconds that loading it took. sheet: the PNG file, none when None. record:
    the JSON file, beside the video when None.
    """
    from alchemint import media
    from alchemint.sheet import bars_of, sheet_of_stills, shown_frames

    assert board.fps is not None, "resolve the storyboard first"
    assert board.num_frames is not None, "resolve the storyboard first"
    shown = set(shown_frames(board.num_frames)) if sheet else set()
    stills = {}

    def enlarged() -> "Iterator[np.ndarray]":
        for number, frame in enumerate(frames):
            if number in shown:
                stills[number] = frame.copy()  # a frame is a view of its whole window
            yield frame.repeat(options.upscale, axis=0).repeat(options.upscale, axis=1)

    begun = time.perf_counter()
    media.write_video(target, enlarged(), board.fps)
    seconds = {"loading": round(loading, 2), "sampling": round(time.perf_counter() - begun, 2)}
    record = record or target.with_suffix(".json")
    facts = _record(record.parent, board, options, model, seconds)
    media.write_text(record, json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
    if sheet is None:
        return Written((target, record), seconds)
    subtitle = (f"{board.width} x {board.height}, {board.num_frames} frames at {board.fps:g} fps, {model}, "
                f"{options.steps} steps, seed {board.seed}")
    media.write_image(sheet, sheet_of_stills(stills, board.fps, bars_of(board), board.prompt, subtitle))
    return Written((target, record, sheet), seconds)


def _record(
    folder: Path, board: Storyboard, options: Options, model: str, seconds: dict[str, float]
) -> dict[str, Any]:
    """Return everything that made a video; image paths are relative to `folder`, so that the storyboard loads there."""
    hashes: dict[str, str] = {}
    subjects = []
    for subject in board.subjects:
        paths = [image for image in subject.images if isinstance(image, Path)]
        moved = {path: Path(os.path.relpath(path, folder)) for path in paths}
        hashes |= {moved[path].as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
        subjects.append(subject.model_copy(update={"images": tuple(moved.values())}))
    return {
        "storyboard": board.model_copy(update={"subjects": tuple(subjects)}).model_dump(mode="json", exclude_none=True),
        "model": model,
        "options": asdict(options),
        "image_sha256": hashes,
        "versions": {name: importlib.metadata.version(name) for name in RECORDED_PACKAGES},
        "seconds": seconds,
    }
