"""Samples of clips on disk, and batches of them.

Shapes: B samples, N subjects, F frames, T latents in time, C channels, H x W pixels, h x w latents.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from alchemint import timeline

Tensor = torch.Tensor

Event = tuple[timeline.LatentSpan, str]


@dataclass(frozen=True)
class Sample:
    """A window of a clip. video (3, F, H, W) uint8 or latents (C, T, h, w); references (N, 3, H, W) uint8 or
    reference_latents (N, C, h, w); subject_mask (T, h, w); one span and one word for each subject."""

    clip_id: str
    video: Tensor | None
    latents: Tensor | None
    references: Tensor | None
    reference_latents: Tensor | None
    spans: tuple[timeline.LatentSpan, ...]
    subject_mask: Tensor | None
    prompt: str
    words: tuple[str, ...]
    events: tuple[Event, ...]
    inside: int


@dataclass(frozen=True)
class SampleBatch:
    """Samples of one bucket, in pixels that are still to be encoded or as latents from a cache.

    videos (B, 3, F, H, W) uint8, or latents (B, C, T, h, w) float32; references (B, N, 3, H, W) uint8, or
    reference_latents (B, N, C, h, w) float32; spans (B, N, 2) float32 on the latent axis; subject_mask (B, T, h, w),
    the share of each latent's pixels that show any subject, where it is wanted; prompts (B); words (B, N); events (B)
    of (latent span, text) in order of time, or None where the batch leaves its timed captions out.
    """

    clip_ids: list[str]
    videos: Tensor | None
    latents: Tensor | None
    references: Tensor | None
    reference_latents: Tensor | None
    spans: Tensor
    subject_mask: Tensor | None
    prompts: list[str]
    words: list[list[str]]
    events: list[list[Event]] | None
    inside: int
    """References that show their subject within the window itself."""
    broken: tuple[str, ...]
    """The clips that could not be read, for which others stand in: "clip id: reason"."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "SampleBatch":
        """Return the batch with its tensors on `device`."""
        return self._with_tensors(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "SampleBatch":
        """Return the batch with its tensors in pinned memory; DataLoader asks for this."""
        return self._with_tensors(torch.Tensor.pin_memory)

    def _with_tensors(self, change: Callable[[Tensor], Tensor]) -> "SampleBatch":
        tensors: dict[str, Any] = {field.name: change(value) for field in fields(self)
                                   if isinstance(value := getattr(self, field.name), torch.Tensor)}
        return replace(self, **tensors)


def to_batch(samples: Sequence[Sample], with_events: bool, broken: Sequence[str] = ()) -> SampleBatch:
    """Return samples of one bucket as a batch."""
    return SampleBatch(
        clip_ids=[sample.clip_id for sample in samples],
        videos=_stacked([sample.video for sample in samples]),
        latents=_stacked([sample.latents for sample in samples]),
        references=_stacked([sample.references for sample in samples]),
        reference_latents=_stacked([sample.reference_latents for sample in samples]),
        spans=torch.tensor([sample.spans for sample in samples], dtype=torch.float32).view(
            len(samples), len(samples[0].spans), 2),
        subject_mask=_stacked([sample.subject_mask for sample in samples]),
        prompts=[sample.prompt for sample in samples],
        words=[list(sample.words) for sample in samples],
        events=[list(sample.events) for sample in samples] if with_events else None,
        inside=sum(sample.inside for sample in samples),
        broken=tuple(broken),
    )


def _stacked(tensors: list[Tensor | None]) -> Tensor | None:
    there = [tensor for tensor in tensors if tensor is not None]
    assert len(there) in (0, len(tensors))
    return torch.stack(there) if there else None
