"""The node that makes the video of a storyboard, with ComfyUI's progress bar, preview and Cancel button."""

import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .types_of_links import GUIDANCE, MODEL, STORYBOARD, LoadedModel

if TYPE_CHECKING:
    import numpy as np
    import torch

    from alchemint.rendering import Options
    from alchemint.storyboard import Storyboard

LARGEST_SEED = 2**53 - 1
"""The browser holds numbers as 64-bit floats, which are exact up to here."""

LARGEST_PREVIEW = 1024
"""Pixels of the longer side of a preview, a strip of frames."""


class Generate:
    """Storyboard to video: the very file that `alchemint generate` writes with the same seed, steps and guidance."""

    CATEGORY, FUNCTION = "alchemint", "run"
    RETURN_TYPES, RETURN_NAMES = ("VIDEO", "IMAGE", "STRING", "IMAGE"), ("video", "frames", "made", "sheet")
    OUTPUT_TOOLTIPS = ("The video file.", "Its frames.", "JSON of everything that made it.",
                       "Frames of it, and under them when each subject was to be seen.")
    DESCRIPTION = "Makes the video of a storyboard."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        """Return the inputs; new ones are only ever appended, so that old workflows keep loading."""
        return {
            "required": {
                "model": (MODEL,),
                "storyboard": (STORYBOARD,),
                "seed": ("INT", {"default": 0, "min": 0, "max": LARGEST_SEED, "control_after_generate": True,
                                 "tooltip": "Of the noise, instead of the storyboard's."}),
                "steps": ("INT", {"default": 40, "min": 1, "max": 1000}),
            },
            "optional": {
                "guidance": (GUIDANCE, {"tooltip": "The model's own when left out."}),
                "preview_every": ("INT", {"default": 5, "min": 0, "max": 1000,
                                          "tooltip": "Show the video as it comes after so many steps; 0 is never."}),
                "batch_branches": ("BOOLEAN", {"default": True, "tooltip": (
                    "Run guidance's evaluations as one batch, or one after the other with less memory.")}),
            },
            "hidden": {"node_id": "UNIQUE_ID"},
        }

    def run(self, model: LoadedModel, storyboard: "Storyboard", seed: int, steps: int,
            guidance: dict[str, Any] | None = None, preview_every: int = 5, batch_branches: bool = True,
            node_id: str | None = None) -> "tuple[Any, torch.Tensor, str, torch.Tensor]":
        """Return the video, its frames (frames, height, width, 3) 0..1, what made it, and its contact sheet.

        Raises ValueError with all that the model cannot make, before anything runs, and what ComfyUI raises when the
        user cancels: within a step.
        """
        import folder_paths
        import torch
        from comfy import model_management
        from comfy_api.latest import InputImpl

        from alchemint import rendering

        board = storyboard.model_copy(update={"seed": seed}).resolve(model.pipeline.defaults)
        options = _options(model, steps, guidance or {}, batch_branches)
        # As long as ComfyUI runs, links and its cache may hold the video; it empties this folder when it starts.
        folder = Path(folder_paths.get_temp_directory()) / f"alchemint-{uuid.uuid4().hex}"
        folder.mkdir(parents=True)
        video, sheet, record = folder / "video.mp4", folder / "sheet.png", folder / "made.json"
        board = _with_files(board, folder)
        if model.device != "cpu":
            model_management.unload_all_models()  # those of other nodes, which ComfyUI brings back when it needs them
        frames: list[np.ndarray] = []
        # ComfyUI runs nodes in inference mode, whose tensors cannot be changed outside of it.
        with torch.inference_mode(False), _removed_on_failure(folder):
            rendering.write(video, _kept(_frames(model, board, options, preview_every, node_id), frames), board,
                            options, model.name, model.loading_s, sheet, record)
        return (InputImpl.VideoFromFile(str(video)), _as_images(frames), record.read_text(encoding="utf-8"),
                _as_images([_picture(sheet)]))


def _options(model: LoadedModel, steps: int, changed: dict[str, Any], batch_branches: bool) -> "Options":
    from alchemint.acceleration import AccelerationOptions
    from alchemint.diffusion.guidance import Guidance
    from alchemint.model_folder import read_guidance
    from alchemint.rendering import Options

    own, own_2 = (Guidance(**read_guidance(model.config_folder, model.base_folder, second) | changed)
                  for second in (False, True))
    return Options(steps, own, own_2, batch_branches, model.device, model.dtype, upscale=1,
                   window=model.pipeline.defaults.num_frames, overlap_s=None, reference_gate=None,
                   acceleration=AccelerationOptions(), memory=model.memory)


def _with_files(board: "Storyboard", folder: Path) -> "Storyboard":
    """Return a storyboard whose wired pictures are files of `folder`, so that the record can name them."""
    from alchemint import media

    def file(picture: Any, stem: str) -> Path:
        if isinstance(picture, Path):
            return picture
        media.write_image(folder / f"{stem}.png", picture)
        return folder / f"{stem}.png"

    return board.model_copy(update={"subjects": tuple(
        subject.model_copy(update={"images": tuple(
            file(picture, f"subject-{number}-{view}") for view, picture in enumerate(subject.images, start=1))})
        for number, subject in enumerate(board.subjects, start=1))})


def _frames(model: LoadedModel, board: "Storyboard", options: "Options", preview_every: int, node_id: str | None
            ) -> "Iterator[np.ndarray]":
    """Yield the frames, (height, width, 3) uint8; in ComfyUI's progress bar each step is one of all."""
    import torch
    from comfy import model_management
    from comfy.utils import ProgressBar

    from alchemint.long_video import long_video, windows_of
    from alchemint.studio.observing import Observer

    total = options.steps * len(windows_of(board, options.window))
    bar = ProgressBar(total, node_id=node_id)
    done = 0

    def on_preview(png: bytes) -> None:
        from PIL import Image

        bar.update_absolute(done, total, ("JPEG", Image.open(BytesIO(png)).convert("RGB"), LARGEST_PREVIEW))

    def on_step_end(pipeline: Any, step: int, timestep: "torch.Tensor", tensors: dict[str, Any]) -> dict[str, Any]:
        nonlocal done
        model_management.throw_exception_if_processing_interrupted()
        done = step + 1
        bar.update_absolute(done, total)
        return observer.callback(pipeline, step, timestep, tensors)

    is_whole = False
    try:
        model_management.throw_exception_if_processing_interrupted()
        with Observer(model.pipeline, preview_every, on_preview) as observer:
            for frame in long_video(
                    model.pipeline, board, options.window, None, options.steps, on_step_end,
                    callback_on_step_end_tensor_inputs=observer.tensor_inputs, guidance=options.guidance,
                    guidance_2=options.guidance_2, batch_branches=options.batch_branches):
                model_management.throw_exception_if_processing_interrupted()
                yield frame
        is_whole = True
    except torch.OutOfMemoryError as error:
        raise ValueError(f"the memory of {model.device} does not suffice; load the model with memory low, turn "
                         "batch_branches off, or give a smaller width and height, or fewer pictures") from error
    finally:
        if not is_whole:
            model.pipeline.maybe_free_model_hooks()  # what is offloaded leaves the device; a call ends so by itself


@contextmanager
def _removed_on_failure(folder: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        shutil.rmtree(folder)
        raise


def _kept(frames: "Iterable[np.ndarray]", kept: "list[np.ndarray]") -> "Iterator[np.ndarray]":
    """Yield frames, and keep them."""
    for frame in frames:
        kept.append(frame)
        yield frame


def _as_images(frames: "list[np.ndarray]") -> "torch.Tensor":
    """Return frames (height, width, 3) uint8 as ComfyUI has images: (frames, height, width, 3) float32 0..1."""
    import numpy as np
    import torch

    return torch.from_numpy(np.stack(frames)).float() / 255


def _picture(path: Path) -> "np.ndarray":
    import numpy as np

    from alchemint.media import open_image

    return np.asarray(open_image(path))
