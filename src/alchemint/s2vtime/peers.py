"""Open peers through their own public weights and diffusers pipelines.

    wan     Wan text-to-video; the subjects' times stand in the prompt, their references are not taken
    vace    Wan VACE: references, but no intervals; the times stand in the prompt, too

Phantom, SkyReels-A2 and MAGREF have repositories of their own: run those with `systems.CommandSystem`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, WanPipeline, WanVACEPipeline

from alchemint import media, timeline
from alchemint.s2vtime.suite import Entry
from alchemint.s2vtime.systems import Abilities, Video, timed_prompt
from alchemint.storyboard import Storyboard

WHITE = (255, 255, 255)
"""What VACE's authors lay cut-out references on."""


@dataclass(frozen=True)
class Format:
    """What a peer makes where the storyboard does not say: Wan's own sizes."""

    width: int = 832
    height: int = 480
    fps: float = 16.0
    num_inference_steps: int = 50
    guidance_scale: float = 5.0


@dataclass
class _Peer:
    """What peers share: a pipeline, where its weights came from, and the sizes it makes."""

    pipeline: DiffusionPipeline
    weights: str
    format: Format = Format()

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides the videos beside the storyboard."""
        return {"weights": self.weights, **vars(self.format)}


class WanText(_Peer):
    """Wan text-to-video with the times told in words."""

    name: str = "wan"
    abilities = Abilities(references=False, intervals=False, events=False)

    def make(self, entry: Entry) -> Video:
        """Return the video that the pipeline makes of the timed prompt."""
        return _made(self.pipeline, entry.storyboard, self.format)


class WanVace(_Peer):
    """Wan VACE with each subject's first picture as a reference."""

    name: str = "vace"
    abilities = Abilities(views_per_subject=1, intervals=False, events=False)

    def make(self, entry: Entry) -> Video:
        """Return the video that the pipeline makes of the timed prompt and the references."""
        pictures = [media.flattened(media.open_image(subject.images[0]), WHITE)
                    for subject in entry.storyboard.subjects]
        # The pipeline puts several references in front of the video one by one, which reverses their order.
        return _made(self.pipeline, entry.storyboard, self.format, reference_images=pictures[::-1] or None)


PEERS: dict[str, tuple[type[DiffusionPipeline], Callable[..., WanText | WanVace], str]] = {
    "wan": (WanPipeline, WanText, "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"),
    "vace": (WanVACEPipeline, WanVace, "Wan-AI/Wan2.1-VACE-1.3B-diffusers"),
}
"""By name: the pipeline's class, the system, and the weights it takes when none are named."""


def load_peer(name: str, weights: str | Path | None = None, device: str = "cpu",
              dtype: torch.dtype = torch.float32, **format_values: Any) -> WanText | WanVace:
    """Load a peer's pipeline from the hub or a folder.

    Raises ValueError for an unknown name, OSError with diffusers' own advice when the weights can't be had.
    """
    if name not in PEERS:
        raise ValueError(f'system "{name}" is unknown; use one of {", ".join(PEERS)}, or a command')
    pipeline_class, system_class, default = PEERS[name]
    source = str(weights or default)
    pipeline = pipeline_class.from_pretrained(source, dtype={"default": dtype, "vae": torch.float32}).to(device)
    pipeline.set_progress_bar_config(disable=True)
    return system_class(pipeline, source, Format(**format_values))


def _made(pipeline: DiffusionPipeline, board: Storyboard, form: Format, **conditions: Any) -> Video:
    fps = board.fps or form.fps
    num_frames = board.num_frames or 81
    if board.duration is not None:
        # The nearest count that the VAE can hold; intervals are in seconds and stay as they are.
        exact = board.duration * fps + 1
        num_frames = min(timeline.nearest_num_frames(exact), key=lambda count: abs(count - exact))
    frames = pipeline(
        prompt=timed_prompt(board), negative_prompt=board.negative_prompt, width=board.width or form.width,
        height=board.height or form.height, num_frames=num_frames, num_inference_steps=form.num_inference_steps,
        guidance_scale=form.guidance_scale, output_type="np",
        generator=torch.Generator("cpu").manual_seed(board.seed or 0), **conditions).frames[0]
    return media.as_uint8(frames), fps
